"""A toy world in the stages' file formats: squares at known places, one-line reports, a teacher that knows them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from transformers import LlamaConfig, LlamaForCausalLM

from kdistill.observations import INDEX, OBSERVATIONS
from kdistill.records import CounterfactualPair, Rationale, RationaleEntry, Study, StudyImage, write_jsonl
from kdistill.teacher.statements import statement
from kdistill.teacher.tokenizer import train_tokenizer

SIZE = 32
STATES = {"present": 1, "absent": 0, "uncertain": -1}
SIGNS = {"Pleural Effusion": "The costophrenic angle is blunted.", "Cardiomegaly": "The heart is wide."}


@dataclass(frozen=True)
class ToyDirs:
    """The folders of the earlier stages."""

    studies: Path
    labels: Path
    rationales: Path
    teacher: Path


def draw(effusion: str | None, heart: bool, generator: np.random.Generator, size: int = SIZE) -> np.ndarray:
    """One image: a bright square in a lower corner for an effusion, in the middle for a large heart."""
    image = generator.normal(110, 8, (size, size))
    edge = size // 4
    low = slice(size - 2 * edge, size - edge)
    if effusion is not None:
        columns = slice(edge // 2, edge + edge // 2) if effusion == "right" else slice(-edge - edge // 2, -edge // 2)
        image[low, columns] += 90
    if heart:
        image[low, size // 2 - edge // 2 : size // 2 + edge // 2] += 60
    return np.clip(image, 0, 255).astype(np.uint8)


def entries(effusion: str | None, heart: bool) -> tuple[RationaleEntry, ...]:
    """What a teacher would state about such a study."""
    facts = [("Cardiomegaly", "present" if heart else "absent", None), *_effusion(effusion)]
    return tuple(
        RationaleEntry(
            observation=name,
            state=state,
            side=side,
            text=f"{statement(name, state, side)}." + (f" {SIGNS[name]}" if state == "present" else ""),
        )
        for name, state, side in facts
    )


def _effusion(side: str | None) -> list[tuple]:
    return [("Pleural Effusion", "present" if side else "absent", side)]


def make_world(
    root: Path, *, num_train: int = 24, num_other: int = 8, size: int = SIZE, seed: int = 0, top_k: int = 4
) -> ToyDirs:
    """Write studies, labels, rationales and teacher folders below `root`."""
    dirs = ToyDirs(*(root / name for name in ("studies", "labels", "rationales", "teacher")))
    for folder in (dirs.studies, dirs.labels, dirs.rationales, dirs.teacher / "model"):
        folder.mkdir(parents=True)
    generator = np.random.default_rng(seed)
    studies, truths, images = [], [], []
    for number in range(num_train + 2 * num_other):
        split = "train" if number < num_train else ("validate" if number < num_train + num_other else "test")
        effusion = ("left", "right", None)[number % 3]
        heart = bool((number // 3) % 2)
        images.append(draw(effusion, heart, generator, size))
        truths.append((effusion, heart))
        studies.append(_study(number, split, effusion, heart))
    write_jsonl(dirs.studies / "studies.jsonl", studies)
    np.save(dirs.studies / "images.npy", np.stack(images))
    _write_pairs(dirs, studies, generator, size)
    _write_labels(dirs, studies, truths)
    _write_rationales(dirs, studies[:num_train], truths, top_k, generator)
    return dirs


def _study(number: int, split: str, effusion: str | None, heart: bool) -> Study:
    findings = f"There is a {effusion} effusion." if effusion else "The sulci are clear."
    return Study(
        study_id=f"s{number}",
        patient_id=f"p{number // 2}",
        split=split,
        images=(StudyImage(image_path=f"{number}.png", row=number),),
        findings=findings + (" The heart is large." if heart else ""),
        impression="Abnormal." if effusion or heart else "Normal.",
    )


def _write_pairs(dirs: ToyDirs, studies: list[Study], generator: np.random.Generator, size: int) -> None:
    state = generator.bit_generator.state
    before = draw("left", False, generator, size)
    generator.bit_generator.state = state
    after = draw(None, False, generator, size)
    np.save(dirs.studies / "pair_images.npy", np.stack([before, after]))
    pair = CounterfactualPair(
        pair_id="c0",
        kind="removed",
        study_id=studies[-1].study_id,
        patient_id=studies[-1].patient_id,
        observation="Pleural Effusion",
        before_row=0,
        after_row=1,
    )
    write_jsonl(dirs.studies / "pairs.jsonl", [pair])


def _labels(effusion: str | None, heart: bool, *, explicit: bool) -> dict[str, int | None]:
    labels: dict[str, int | None] = dict.fromkeys(OBSERVATIONS)
    labels["Pleural Effusion"] = 1 if effusion else 0
    if heart or not explicit:  # the toy's reports never deny a large heart; its teacher infers that
        labels["Cardiomegaly"] = int(heart)
    return labels


def _write_labels(dirs: ToyDirs, studies: list[Study], truths: list[tuple]) -> None:
    kept = [(study, truth) for study, truth in zip(studies, truths, strict=True) if study.split != "test"]
    for path, explicit in ((dirs.labels / "labels.jsonl", True), (dirs.rationales / "readings.jsonl", False)):
        lines = []
        for study, truth in kept:
            line = {"study_id": study.study_id, "split": study.split, "labels": _labels(*truth, explicit=explicit)}
            if not explicit:
                side = {"observation": "Pleural Effusion", "state": "present", "side": truth[0], "zone": None}
                line = {**line, "confidence": {}, "items": [side] if truth[0] else []}
            lines.append(line)
        write_jsonl(path, lines)


def _write_rationales(dirs: ToyDirs, studies: list[Study], truths: list[tuple], top_k: int, generator) -> None:
    records = [_rationale(study, truth) for study, truth in zip(studies, truths, strict=False)]
    write_jsonl(dirs.rationales / "rationales.jsonl", records)
    write_jsonl(dirs.rationales / "template.jsonl", records)
    texts = [study.report for study in studies] + [record.text for record in records]
    tokenizer = train_tokenizer(texts * 2, 340)
    tokenizer.save_pretrained(dirs.teacher / "model")
    _write_teacher(dirs, len(tokenizer))
    bank = sorted({e.text for effusion in ("left", "right", None) for h in (0, 1) for e in entries(effusion, bool(h))})
    embeddings = generator.normal(size=(len(bank), 12)).astype(np.float32)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    statements = [
        {"statement": text, "negatives": [n for n in range(len(bank)) if n != r]} for r, text in enumerate(bank)
    ]
    (dirs.rationales / "statements.jsonl").write_text("".join(json.dumps(line) + "\n" for line in statements))
    rows = np.full((len(records), 14), -1, dtype=np.int32)
    states = np.full((len(records), 14), -2, dtype=np.int8)
    for n, record in enumerate(records):
        for entry in record.entries:
            rows[n, INDEX[entry.observation]] = bank.index(entry.text)
            states[n, INDEX[entry.observation]] = STATES[entry.state]
    tokens = [[*tokenizer(r.text)["input_ids"], tokenizer.eos_token_id] for r in records]
    arrays = token_targets(tokens, len(tokenizer), top_k, generator)
    arrays |= {"statement_embeddings": embeddings, "entry_statement": rows, "entry_state": states}
    save_file(arrays, dirs.rationales / "targets.safetensors")


def _rationale(study: Study, truth: tuple) -> Rationale:
    found = entries(*truth)
    return Rationale(study_id=study.study_id, teacher="toy", entries=found, text=" ".join(e.text for e in found))


def token_targets(tokens: list[list[int]], vocabulary: int, top_k: int, generator) -> dict[str, np.ndarray]:
    """Made-up teacher distributions: 0.8 for the text's own token, the rest spread over others and the residual."""
    flat = np.concatenate(tokens).astype(np.int32)
    ids = np.empty((len(flat), top_k), dtype=np.int32)
    for row, token in enumerate(flat):
        others = generator.choice(np.delete(np.arange(vocabulary), token), top_k - 1, replace=False)
        ids[row] = [token, *others]
    mass = np.full((len(flat), top_k), 0.15 / (top_k - 1))
    mass[:, 0] = 0.8
    return {
        "token_offsets": np.cumsum([0, *map(len, tokens)]).astype(np.int64),
        "token_ids": flat,
        "topk_ids": ids,
        "topk_logprobs": np.log(mass).astype(np.float16),
        "residual_logprob": np.full(len(flat), np.log(0.05), dtype=np.float16),
    }


def _write_teacher(dirs: ToyDirs, vocabulary: int) -> None:
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=512,
    )
    LlamaForCausalLM(config).save_pretrained(dirs.teacher / "model")
