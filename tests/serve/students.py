"""Run folders with real students, as small as they come: what `serve RUN` loads."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import yaml
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from kdistill.records import Study, StudyImage, Truth, write_jsonl
from kdistill.student.text import SECTION_TOKENS, token_ids
from kdistill.student.thresholds import save_thresholds

from ..explain.conftest import radiograph
from ..student.small import llama, small_student


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte, and the section tokens."""
    named = ["<unk>", "<s>", "</s>", *SECTION_TOKENS.values(), *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE(vocab={token: n for n, token in enumerate(named)}, merges=[], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    made = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>")
    made.add_special_tokens({"additional_special_tokens": list(SECTION_TOKENS.values())})
    return made


def add_student(run: Path, arm: str = "full", seed: int = 0, *, weights: int = 0, size_px: int = 64) -> Path:
    """Publish a student with random weights; `weights` tells two of them apart. Returns its folder."""
    folder = run / "student" / arm / f"seed-{seed}"
    tokenizer = byte_tokenizer()
    student = small_student(
        weights,
        language=llama(len(tokenizer)),
        image_size_px=size_px,
        teacher_hidden_size=0,
        token_ids=token_ids(tokenizer),
    )
    student.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    save_thresholds(folder / "model", [0.4 + 0.01 * n for n in range(14)], "test", [1] * 14)
    saved = {"arm": arm, "seed": seed, "distillation": {"max_new_tokens": 4}}
    (folder / "config.yaml").write_text(yaml.safe_dump(saved), encoding="utf-8")
    return folder


def make_run(run: Path, *, report: str = "Clear lungs.", **student: int) -> Path:
    """A run of one student and one test study; returns its folder."""
    add_student(run, **student)
    for name in ("rationales/rationales.jsonl", "literature/articles.jsonl"):
        (run / name).parent.mkdir(parents=True)
        (run / name).write_text("", encoding="utf-8")
    studies, size_px = run / "studies", student.get("size_px", 64)
    studies.mkdir()
    image = StudyImage(image_path="a.png", row=0)
    study = Study(study_id="a", patient_id="p", split="test", images=(image,), findings=report)
    write_jsonl(studies / "studies.jsonl", [study])
    write_jsonl(studies / "truth.jsonl", [Truth(study_id="a", truth={"Edema": 1})])
    np.save(studies / "images.npy", radiograph(size_px)[None])
    return run


def poison(folder: Path) -> None:
    """Turn one weight into NaN, and bind the thresholds to the new bytes, so that nothing but the NaN speaks."""
    import torch
    from safetensors.torch import load_file, save_file

    file = folder / "model" / "model.safetensors"
    tensors = load_file(file)
    name = sorted(tensors)[0]
    tensors[name] = torch.full_like(tensors[name], float("nan"))
    save_file(tensors, file, metadata={"format": "pt"})
    values = json.loads((folder / "model" / "thresholds.json").read_text())["values"]
    save_thresholds(folder / "model", values, "test", [1] * 14)
