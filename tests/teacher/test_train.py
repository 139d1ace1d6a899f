"""Fault row 33: a killed training goes on from the newest sound checkpoint and ends in the same weights."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from kdistill.errors import InputError
from kdistill.teacher.corpus import PackedPassages, encode_documents, heldout_passages, training_texts
from kdistill.teacher.language_model import LanguageModel, create
from kdistill.teacher.train import train

from .worlds import tiny_config

CONFIG = tiny_config(steps=30)


class Killed(Exception):
    """Stands for SIGKILL: nothing after it runs."""


@pytest.fixture(scope="module")
def texts(literature_dir: Path) -> list[str]:
    return training_texts(literature_dir)


def run(texts: list[str], folder: Path, stop_at: int | None = None) -> dict[str, torch.Tensor]:
    language_model = create(CONFIG, texts)

    def progress(done: int, total: int) -> None:
        if done == stop_at:
            raise Killed

    train(language_model, encode_documents(texts, language_model.tokenizer), CONFIG.training, folder, progress)
    return language_model.model.state_dict()


@pytest.fixture(scope="module")
def uninterrupted(texts: list[str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    return run(texts, tmp_path_factory.mktemp("whole"))


def equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("damage", ["none", "bit rot", "torn save"])
def test_resume_is_bit_for_bit(
    texts: list[str], uninterrupted: dict[str, torch.Tensor], tmp_path: Path, damage: str
) -> None:
    with pytest.raises(Killed):
        run(texts, tmp_path, stop_at=27)
    newest = tmp_path / "checkpoint-20"
    if damage == "bit rot":
        weights = bytearray((newest / "model.safetensors").read_bytes())
        weights[-5] ^= 1
        (newest / "model.safetensors").write_bytes(weights)
    elif damage == "torn save":
        (newest / "seal.json").unlink()
        (newest / "optimizer.pt").unlink()
    assert equal(run(texts, tmp_path), uninterrupted)


def test_training_is_not_trivially_equal(texts: list[str], uninterrupted: dict[str, torch.Tensor]) -> None:
    assert not equal(create(CONFIG, texts).model.state_dict(), uninterrupted)


def test_sigkill_at_a_step(
    texts: list[str], literature_dir: Path, uninterrupted: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    script = (
        "import sys, torch; from pathlib import Path; torch.set_num_threads(1)\n"
        "from tests.teacher.test_train import CONFIG, encode_documents, training_texts, create, train\n"
        "texts = training_texts(Path(sys.argv[1])); lm = create(CONFIG, texts)\n"
        "def slow(done, total):\n"
        "    import time; time.sleep(1.0 if done >= 13 else 0)\n"
        "train(lm, encode_documents(texts, lm.tokenizer), CONFIG.training, Path(sys.argv[2]), slow)\n"
    )
    root = Path(__file__).parents[2]
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(literature_dir), str(tmp_path)],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
        stderr=subprocess.DEVNULL,
    )
    seal = tmp_path / "checkpoint-10" / "seal.json"
    deadline = time.monotonic() + 300
    while not seal.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.5)  # a few steps on
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert seal.exists() and not (tmp_path / "checkpoint-30").exists()
    assert equal(run(texts, tmp_path), uninterrupted)


def test_rows_are_cut_from_the_stream_in_order(literature_dir: Path, language_model: LanguageModel) -> None:
    documents = encode_documents(["one two three", "four five", "six"], language_model.tokenizer)
    rows = PackedPassages(documents, num_rows=10, sequence_length=7, seed=3)
    again = PackedPassages(documents, num_rows=4, sequence_length=7, seed=3)
    assert all(torch.equal(rows[i]["input_ids"], again[i]["input_ids"]) for i in range(4))
    stream = torch.cat([rows[i]["input_ids"] for i in range(len(rows))])
    size = sum(map(len, documents))
    for epoch in range(70 // size):  # every epoch holds each document once
        part = sorted(stream[epoch * size : (epoch + 1) * size].tolist())
        assert part == sorted(token for document in documents for token in document)
    assert not torch.equal(
        rows[0]["input_ids"], PackedPassages(documents, num_rows=1, sequence_length=7, seed=4)[0]["input_ids"]
    )


def test_held_out_articles_are_not_trained_on(literature_dir: Path, texts: list[str]) -> None:
    held_out = heldout_passages(literature_dir)
    assert held_out and texts
    assert not {p.text for p in held_out} & {part for text in texts for part in text.split("\n")}


def test_a_diverging_run_stops_with_the_step_named(texts: list[str], tmp_path: Path) -> None:
    language_model = create(CONFIG, texts)
    with torch.no_grad():
        language_model.model.get_input_embeddings().weight.fill_(float("nan"))
    with pytest.raises(InputError, match="loss became nan at step"):
        train(language_model, encode_documents(texts, language_model.tokenizer), CONFIG.training, tmp_path)


def test_no_literature_is_said(language_model: LanguageModel) -> None:
    with pytest.raises(InputError, match="no passage"):
        PackedPassages([], num_rows=1, sequence_length=4, seed=0)
