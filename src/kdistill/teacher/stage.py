"""The teacher stage: literature -> trained language model, with proof of what it learned."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from kdistill.artifact import CHECKPOINTS, StageWriter
from kdistill.records import Passage, ProbeItem, write_jsonl
from kdistill.teacher.config import TeacherConfig
from kdistill.teacher.corpus import encode_documents, heldout_passages, training_texts
from kdistill.teacher.language_model import LanguageModel, create, merged
from kdistill.teacher.probe import bits_per_byte, probe
from kdistill.teacher.scoring import Scorer
from kdistill.teacher.train import train
from kdistill.weights import check_weights_dir

logger = logging.getLogger(__name__)


def build_teacher(
    stage: StageWriter,
    config: TeacherConfig,
    *,
    literature_dir: Path,
    probe_items: Sequence[ProbeItem],
    on_progress: Callable[[int, int], None] | None = None,
) -> None:
    """Train the teacher on the literature and measure it before and after.

    Writes model/ (weights, config, tokenizer), metrics.json (bits per byte), probe.json and history.jsonl.

    Args:
        stage: The folder to write into; checkpoints/ in it lets a killed training go on.
        config: The teacher's settings.
        literature_dir: The published literature stage.
        probe_items: Held-out wordings of signs; may be empty (the probe's figures are then null with n = 0).
        on_progress: Called with (steps done, steps in all).

    Raises:
        InputError: No literature, a model that cannot be loaded, or a loss that is not finite.
        WeightsError: Weights that are unsafe or damaged, before training or after it.
    """
    torch.manual_seed(config.training.seed)
    texts = training_texts(literature_dir)
    held_out = heldout_passages(literature_dir)
    teacher = create(config, texts)
    stage.device = str(teacher.device)
    documents = encode_documents(texts, teacher.tokenizer)
    stage.count("training_articles", len(documents))
    stage.count("training_tokens", sum(map(len, documents)))
    stage.count("heldout_passages", len(held_out))
    before = _measure(teacher, held_out, probe_items)
    history = train(teacher, documents, config.training, stage.dir / CHECKPOINTS, on_progress)
    teacher = merged(teacher)
    after = _measure(teacher, held_out, probe_items)
    teacher.save(stage.dir / "model")
    check_weights_dir(stage.dir / "model")
    write_jsonl(stage.dir / "history.jsonl", history)
    _write_figures(stage, teacher.name, before, after)


def _measure(teacher: LanguageModel, held_out: Sequence[Passage], items: Sequence[ProbeItem]) -> dict[str, dict]:
    teacher.model.eval()
    return {
        "bits_per_byte": bits_per_byte(teacher, held_out).model_dump(),
        "probe": probe(Scorer(teacher), items).model_dump(),
    }


def _write_figures(stage: StageWriter, name: str, before: dict[str, dict], after: dict[str, dict]) -> None:
    metrics = {"teacher": name, "bits_per_byte": {"before": before["bits_per_byte"], "after": after["bits_per_byte"]}}
    answers = {"trained": after["probe"], "untrained": before["probe"], "chance": 1 / 13}
    for name, figures in (("metrics.json", metrics), ("probe.json", answers)):
        (stage.dir / name).write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    stage.log("teacher", bits_per_byte=metrics["bits_per_byte"], probe=after["probe"]["all"])
    logger.info("bits per byte %s, probe %s", metrics["bits_per_byte"], after["probe"]["all"])
