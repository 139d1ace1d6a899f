"""Any causal LM by local folder: full and LoRA on Llama and Qwen3; unsafe or damaged folders are refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from kdistill.artifact import StageWriter
from kdistill.errors import InputError, WeightsError
from kdistill.teacher.config import FullTeacher, LoraTeacher, TeacherConfig, TeacherTraining
from kdistill.teacher.language_model import load
from kdistill.teacher.stage import build_teacher
from kdistill.teacher.tokenizer import SPECIAL_TOKENS, train_tokenizer

from .worlds import PROBE

SHORT = TeacherTraining(steps=4, batch_size=2, sequence_length=32, learning_rate=1e-3, save_steps=2)


def foreign_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer that knows none of our special tokens but an end of text."""
    trained = train_tokenizer(["The lungs are clear and the heart is normal."] * 3, 300)
    return PreTrainedTokenizerFast(tokenizer_object=trained.backend_tokenizer, eos_token="<eos>")


def save_foreign(folder: Path, family: str) -> Path:
    tokenizer = foreign_tokenizer()
    size = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 256,
    }
    torch.manual_seed(0)
    model = (
        LlamaForCausalLM(LlamaConfig(**size))
        if family == "llama"
        else Qwen3ForCausalLM(Qwen3Config(**size, head_dim=16))
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def llama_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_foreign(tmp_path_factory.mktemp("llama"), "llama")


# peft 0.21 asks for an attribute that transformers 5.23 renamed: remove with the first peft that does not.
@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
@pytest.mark.parametrize("family", ["llama", "qwen3"])
@pytest.mark.parametrize("kind", ["full", "lora"])
def test_training_a_foreign_model_end_to_end(tmp_path: Path, literature_dir: Path, family: str, kind: str) -> None:
    source = save_foreign(tmp_path / family, family)
    config: TeacherConfig = (
        FullTeacher(model=str(source), training=SHORT)
        if kind == "full"
        else LoraTeacher(model=str(source), rank=2, training=SHORT)
    )
    stage = StageWriter(tmp_path / "stage")
    stage.dir.mkdir()
    build_teacher(stage, config, literature_dir=literature_dir, probe_items=PROBE)
    trained, original = load(str(stage.dir / "model")), load(str(source))
    assert set(SPECIAL_TOKENS) - {"<pad>", "<bos>"} <= set(trained.tokenizer.get_vocab())
    assert not list((stage.dir / "model").glob("adapter*"))
    moved = [
        not torch.equal(a, b) for a, b in zip(trained.model.parameters(), original.model.parameters(), strict=True)
    ]
    assert any(moved) and (kind == "lora" or all(moved))
    figures = json.loads((stage.dir / "metrics.json").read_text())["bits_per_byte"]
    assert figures["after"]["value"] < figures["before"]["value"]


def test_special_tokens_are_added_and_embeddings_grow(llama_dir: Path) -> None:
    teacher = load(str(llama_dir))
    size = len(foreign_tokenizer())
    vocabulary = teacher.tokenizer.get_vocab()
    assert all(token in vocabulary for token in ("<report>", "<impression>", "<rationale>"))
    assert teacher.tokenizer.eos_token == "<eos>" and teacher.tokenizer.pad_token is not None
    assert teacher.model.get_input_embeddings().weight.shape[0] == max(size, len(teacher.tokenizer))
    again = load(str(llama_dir))
    assert all(torch.equal(a, b) for a, b in zip(teacher.model.parameters(), again.model.parameters(), strict=True))


def copy_with(llama_dir: Path, folder: Path, change: str) -> Path:
    folder.mkdir()
    for file in llama_dir.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    tensors = load_file(folder / "model.safetensors")
    name = "model.layers.1.self_attn.q_proj.weight"
    match change:
        case "nan":
            tensors[name][0, 0] = float("nan")
        case "shape":
            tensors[name] = torch.zeros(8, 8)
        case "missing":
            del tensors[name]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    if change == "cut":
        (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-9])
    if change == "pickle":
        (folder / "model.safetensors").unlink()
        torch.save({"a": torch.ones(1)}, folder / "pytorch_model.bin")
    return folder


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("nan", "q_proj"),
        ("shape", "q_proj"),
        ("missing", "q_proj"),
        ("cut", "ends at byte"),
        ("pickle", "pickled"),
    ],
)
def test_damaged_folders_are_refused(llama_dir: Path, tmp_path: Path, change: str, said: str) -> None:
    with pytest.raises(WeightsError, match=said):
        load(str(copy_with(llama_dir, tmp_path / change, change)))


def test_missing_tokenizer_is_said(llama_dir: Path, tmp_path: Path) -> None:
    folder = copy_with(llama_dir, tmp_path / "bare", "none")
    for file in folder.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(InputError, match="tokenizer"):
        load(str(folder))


def test_own_tokenizer_round_trips_any_text_and_orders_special_tokens() -> None:
    tokenizer = train_tokenizer(["Small left pleural effusion. No pneumothorax."] * 5, 300)
    assert tokenizer.convert_ids_to_tokens(list(range(6))) == list(SPECIAL_TOKENS)
    for text in ("Small left effusion.", "größe 3.5 cm\n\t日本", "<eos> in a report", " leading"):
        ids = tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        assert tokenizer.decode(ids) == text and not set(ids) & set(range(6))
    with pytest.raises(InputError, match="no text"):
        train_tokenizer(["  "], 300)
