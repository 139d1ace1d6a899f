"""What a student needs beside its weights: pixels, thresholds, sections, building from other models' folders."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoModelForCausalLM, GPT2Config, PreTrainedTokenizerBase, Qwen3Config, ViTConfig

from kdistill.errors import WeightsError
from kdistill.student.build import build_model
from kdistill.student.config import CnnVisionConfig, LlamaLanguageConfig, StudentConfig
from kdistill.student.images import blank, pixel_values
from kdistill.student.text import SECTION_TOKENS, rationale_sequence, report_sequence, split_texts, token_ids
from kdistill.student.thresholds import load_thresholds, save_thresholds

from .small import pixels, small_student

TINY = StudentConfig(
    vision=CnnVisionConfig(stem_channels=8, middle_channels=8, channels=16, num_blocks=1),
    language=LlamaLanguageConfig(hidden_size=16, num_layers=1, num_heads=2, intermediate_size=32),
    hidden_size=16,
    image_size_px=32,
)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    from kdistill.teacher.tokenizer import train_tokenizer

    return train_tokenizer(["The heart is large. No effusion is seen."] * 3, 300)


def test_section_tokens_are_the_teachers() -> None:
    """The two packages may not import each other, so the names stand in both: they must stay equal."""
    from kdistill.teacher.tokenizer import SECTION_TOKENS as TEACHERS

    assert set(SECTION_TOKENS.values()) == set(TEACHERS)


def test_pixel_values_by_hand() -> None:
    config = small_student().config
    images = np.full((1, 32, 32), 255, dtype=np.uint8)
    values = pixel_values(images, config)
    assert values.shape == (1, 1, 32, 32) and values.dtype == torch.float32
    torch.testing.assert_close(values[0, 0, 0, 0], torch.tensor((1 - 0.45) / 0.25))
    assert abs(float(pixel_values(blank(images, config), config).mean())) < 0.01
    assert images.min() == 255, "the memory-mapped images must not change"


def test_other_sizes_are_resampled_and_wrong_types_refused() -> None:
    config = small_student().config
    assert pixel_values(np.zeros((2, 64, 64), np.uint8), config).shape == (2, 1, 32, 32)
    with pytest.raises(ValueError, match="uint8"):
        pixel_values(np.zeros((2, 32, 32), np.float32), config)


def test_thresholds_are_bound_to_the_weights(tmp_path: Path) -> None:
    small_student(0).save_pretrained(tmp_path)
    assert load_thresholds(tmp_path) is None
    save_thresholds(tmp_path, [0.25] * 14, "explicit", [5] * 14)
    loaded = load_thresholds(tmp_path)
    assert loaded is not None and loaded.values[0] == 0.25 and loaded.label_source == "explicit"
    small_student(1).save_pretrained(tmp_path)
    with pytest.raises(WeightsError, match="other weights"):
        load_thresholds(tmp_path)


@pytest.mark.parametrize("damage", ["short", "range", "text"])
def test_damaged_thresholds_are_refused(tmp_path: Path, damage: str) -> None:
    small_student().save_pretrained(tmp_path)
    save_thresholds(tmp_path, [0.25] * 14, "explicit", [5] * 14)
    path = tmp_path / "thresholds.json"
    data = json.loads(path.read_text())
    data["values"] = data["values"][:-1] if damage == "short" else [1.5] * 14
    path.write_text("{" if damage == "text" else json.dumps(data))
    with pytest.raises(WeightsError, match=r"thresholds\.json"):
        load_thresholds(tmp_path)


def test_report_sections_round_trip(tokenizer: PreTrainedTokenizerBase) -> None:
    sequence, cut = report_sequence(tokenizer, "The heart is large.", "No effusion.", 64)
    ids = token_ids(tokenizer)
    assert (sequence[0], sequence[-1], cut) == (ids["report"], ids["eos"], False)
    assert split_texts(tokenizer, sequence[1:-1], "report") == ("The heart is large.", "No effusion.", "")
    assert split_texts(tokenizer, [], "report") == ("", "", "")


def test_long_texts_are_cut_and_keep_their_end(tokenizer: PreTrainedTokenizerBase) -> None:
    ids = token_ids(tokenizer)
    for sequence, cut in (
        report_sequence(tokenizer, "heart " * 50, "x", 10),
        rationale_sequence(tokenizer, "heart " * 50, 10),
    ):
        assert len(sequence) == 10 and sequence[-1] == ids["eos"] and cut


def test_a_tokenizer_without_sections_is_refused(tokenizer: PreTrainedTokenizerBase) -> None:
    class Bare:
        eos_token_id = 2

        def get_vocab(self) -> dict[str, int]:
            return {"a": 0}

    with pytest.raises(WeightsError, match="<report>"):
        token_ids(Bare())  # type: ignore[arg-type]


def test_decoder_starts_from_the_teacher_and_leaves_it_alone(
    tmp_path: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    config = Qwen3Config(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    teacher = AutoModelForCausalLM.from_config(config)
    teacher.save_pretrained(tmp_path)
    written = (tmp_path / "model.safetensors").read_bytes()
    settings = StudentConfig.model_validate({**TINY.model_dump(), "language": {"kind": "teacher"}})
    model = build_model(settings, tokenizer, teacher_model_dir=tmp_path, seed=0)
    assert all(torch.equal(v, model.language.state_dict()[k]) for k, v in teacher.state_dict().items())
    model(pixels(), texts=[]).logits.sum().backward()
    assert (tmp_path / "model.safetensors").read_bytes() == written


def test_foreign_models_load_from_local_folders(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    vision = AutoModel.from_config(
        ViTConfig(
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=32,
            image_size=32,
            patch_size=8,
        )
    )
    vision.save_pretrained(tmp_path / "vision")
    language = AutoModelForCausalLM.from_config(GPT2Config(vocab_size=270, n_embd=16, n_layer=1, n_head=2))
    language.save_pretrained(tmp_path / "language")
    settings = StudentConfig.model_validate(
        {
            **TINY.model_dump(),
            "vision": {"kind": "transformers", "path": str(tmp_path / "vision")},
            "language": {"kind": "transformers", "path": str(tmp_path / "language")},
        }
    )
    model = build_model(settings, tokenizer, teacher_model_dir=None, seed=0)
    assert all(torch.equal(v, model.vision.model.state_dict()[k]) for k, v in vision.state_dict().items())
    embeddings = model.get_input_embeddings().weight
    assert embeddings.shape[0] == len(tokenizer) > 270, "the vocabulary grew by the section tokens"
    assert torch.equal(embeddings[:270], language.get_input_embeddings().weight)
    model.save_pretrained(tmp_path / "student")
    loaded = AutoModel.from_pretrained(tmp_path / "student")
    assert torch.equal(model.eval()(pixels()).logits, loaded.eval()(pixels()).logits)


def test_teacher_weights_that_are_no_safetensors_are_refused(
    tmp_path: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x02")
    settings = StudentConfig.model_validate({**TINY.model_dump(), "language": {"kind": "teacher"}})
    with pytest.raises(WeightsError, match="run code"):
        build_model(settings, tokenizer, teacher_model_dir=tmp_path, seed=0)
    with pytest.raises(WeightsError, match="no teacher"):
        build_model(settings, tokenizer, teacher_model_dir=None, seed=0)
