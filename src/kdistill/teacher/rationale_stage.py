"""The rationales stage: reports of training studies -> readings, verified rationales, template control, targets."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from kdistill.artifact import CHECKPOINTS, StageWriter
from kdistill.literature.search import PassageIndex
from kdistill.observations import LabelState
from kdistill.records import Rationale, RationaleEntry, Study, write_jsonl
from kdistill.studies.store import load_studies
from kdistill.teacher.aspects import build_aspects
from kdistill.teacher.config import RationalesConfig, TeacherConfig
from kdistill.teacher.corpus import heldout_passages, training_texts
from kdistill.teacher.generate import GenerateWriter, LocalGenerator, endpoint_generator
from kdistill.teacher.language_model import LanguageModel, create, load
from kdistill.teacher.reading import Reading, ReportReader, SentenceReader, calibrate
from kdistill.teacher.requests import requests_for, sides_of
from kdistill.teacher.retrieval import LiteratureSentences
from kdistill.teacher.scoring import Scorer
from kdistill.teacher.select import SelectWriter
from kdistill.teacher.targets import write_targets
from kdistill.teacher.template import template_entry
from kdistill.teacher.untrusted import clean_report
from kdistill.teacher.verify import Known, Verifier
from kdistill.teacher.writers import RationaleWriter, Request, in_order, joined_text

logger = logging.getLogger(__name__)

Progress = Callable[[int, int], None]


class Task(NamedTuple):
    """One training study: what is asked of the writer, what the report names, and what answers are held against."""

    study: Study
    requests: list[Request]
    named: list[Request]
    known: Known


def build_rationales(
    stage: StageWriter,
    config: RationalesConfig,
    *,
    literature_dir: Path,
    teacher_dir: Path,
    studies_dir: Path,
    labels_dir: Path,
    untrained: TeacherConfig | None = None,
    on_progress: Progress | None = None,
) -> None:
    """Read reports, write and verify rationales of training studies, and compute the student's targets.

    Writes readings.jsonl (training and validation), rationales.jsonl, rejected.jsonl and template.jsonl (training),
    statements.jsonl and targets.safetensors, and of the literature alone aspects.jsonl and aspects.safetensors. No
    image, no ground truth and no test study is read.

    Args:
        stage: The folder to write into.
        config: Writer, thresholds, targets.
        literature_dir: The published literature.
        teacher_dir: The published teacher.
        studies_dir: The published studies.
        labels_dir: The published explicit labels.
        untrained: Given for the control: the published teacher's settings. The model as it was before it read the
            literature then takes its place; everything else is the same.
        on_progress: Called with (done, total) while targets are computed.

    Raises:
        InputError: An input stage is missing or damaged.
        WeightsError: The teacher's weights are damaged.
    """
    teacher = load(str(teacher_dir / "model")) if untrained is None else _before_training(untrained, literature_dir)
    stage.device = str(teacher.device)
    scorer = Scorer(teacher, batch_size=config.reading.batch_size, max_prompt_tokens=config.max_prompt_tokens)
    studies = [study for study in load_studies(studies_dir) if study.split in ("train", "validate")]
    readings = _read(stage, config, scorer, literature_dir, studies)
    tasks = _tasks(stage, [study for study in studies if study.split == "train"], readings, _explicit(labels_dir))
    index = PassageIndex.load(literature_dir)
    literature = LiteratureSentences(index, top=config.retrieval_top, max_words=config.max_sentence_words)
    writer = _writer(config, scorer, literature, stage.dir / CHECKPOINTS / "answers.jsonl")
    accepted = _write(stage, config, writer, Verifier(index), tasks, _name(teacher_dir, config, untrained))
    _write_template(stage, tasks)
    aspects = build_aspects(teacher, literature, batch_size=config.embed_batch_size)
    aspects.write(stage.dir)
    stage.count("aspect_sentences", len(aspects.sentences))
    reports = {study.study_id: study.report for study in studies}
    num_tokens = write_targets(
        stage.dir,
        Scorer(teacher, batch_size=config.target_batch_size, max_prompt_tokens=config.max_prompt_tokens),
        accepted,
        [privileged_prompt(reports[rationale.study_id]) for rationale in accepted],
        top_k=config.top_k,
        embed_batch_size=config.embed_batch_size,
        on_progress=on_progress,
    )
    stage.count("rationale_tokens", num_tokens)


def privileged_prompt(report: str) -> str:
    """What the teacher reads before the rationale and the student does not: the report, in the form of a case."""
    return f"Findings: {clean_report(report)} Interpretation:" if report.strip() else "Interpretation:"


def _read(
    stage: StageWriter, config: RationalesConfig, scorer: Scorer, literature_dir: Path, studies: Sequence[Study]
) -> dict[str, Reading]:
    sentence_reader = SentenceReader(scorer)
    thresholds = calibrate(sentence_reader, heldout_passages(literature_dir), config.reading)
    stage.log("reading_thresholds", **thresholds.model_dump())
    with_report = [study for study in studies if study.report.strip()]
    readings = ReportReader(sentence_reader, thresholds).read_many([study.report for study in with_report])
    stage.count("studies_read", len(readings))
    stage.count("studies_without_report", len(studies) - len(readings))
    for reading in readings:
        for item in reading.items:
            stage.count(f"items_{item.source}")
    write_jsonl(
        stage.dir / "readings.jsonl",
        (
            {"study_id": study.study_id, "split": study.split, **reading.model_dump(mode="json")}
            for study, reading in zip(with_report, readings, strict=True)
        ),
    )
    return {study.study_id: reading for study, reading in zip(with_report, readings, strict=True)}


def _explicit(labels_dir: Path) -> dict[str, dict[str, LabelState]]:
    """study_id -> labels that the report states in so many words (labels.jsonl holds no test study)."""
    with (labels_dir / "labels.jsonl").open(encoding="utf-8") as file:
        lines: list[dict[str, Any]] = [json.loads(line) for line in file if line.strip()]
    return {line["study_id"]: line["labels"] for line in lines}


def _tasks(
    stage: StageWriter,
    studies: Sequence[Study],
    readings: Mapping[str, Reading],
    explicit: Mapping[str, Mapping[str, LabelState]],
) -> list[Task]:
    """A label column of the data beats a label read from the report; a study without either is counted, not guessed."""
    tasks = []
    for study in studies:
        reading = readings.get(study.study_id)
        columns = {name: state for name, state in (study.labels or {}).items() if state is not None}
        labels = {**(reading.labels if reading else {}), **columns}
        items = reading.items if reading else ()
        requests = requests_for(labels, items)
        if not requests:
            stage.count("studies_without_anything_to_explain")
            continue
        stage.count("rationales_from_reports" if reading else "rationales_from_label_columns")
        known = {**explicit.get(study.study_id, {}), **columns}
        named = requests_for(known, [item for item in items if item.source == "explicit"])
        tasks.append(Task(study, requests, named, Known(known, sides_of(items), study.prior_study_id is not None)))
    return tasks


def _writer(
    config: RationalesConfig, scorer: Scorer, literature: LiteratureSentences, answers_path: Path
) -> RationaleWriter:
    match config.writer:
        case "endpoint":
            return GenerateWriter(endpoint_generator(config, answers_path), literature, config)
        case "select":
            return SelectWriter(scorer, literature, mechanism=config.mechanism)
        case "generate":
            return GenerateWriter(LocalGenerator(scorer.language_model, config), literature, config)


def _before_training(config: TeacherConfig, literature_dir: Path) -> LanguageModel:
    """The model that the teacher stage began with: same settings, tokenizer and seed, nothing learned from here."""
    teacher = create(config, training_texts(literature_dir))
    teacher.model.eval()
    return teacher


def _name(teacher_dir: Path, config: RationalesConfig, untrained: TeacherConfig | None) -> str:
    if config.endpoint is not None and config.writer == "endpoint":
        return config.endpoint.model
    metrics = json.loads((teacher_dir / "metrics.json").read_text(encoding="utf-8"))
    return str(metrics["teacher"]) + ("-untrained" if untrained is not None else "")


def _write(
    stage: StageWriter,
    config: RationalesConfig,
    writer: RationaleWriter,
    verifier: Verifier,
    tasks: Sequence[Task],
    teacher: str,
) -> list[Rationale]:
    """Write, verify and store; accepted and rejected are both kept, and every rejection is counted by its reason."""
    flat = [request for task in tasks for request in task.requests]
    written = iter(writer.write(flat))
    accepted, rejected = [], []
    for task in tasks:
        answers = [next(written) for _ in task.requests]
        entries = in_order([answer.entry for answer in answers if answer.entry is not None])
        rationale = _rationale(task.study, f"{teacher}/{config.writer}", entries)
        reason = next((answer.reason for answer in answers if answer.reason is not None), None)
        reason = reason or verifier.reason(rationale, task.known)
        if reason is None:
            accepted.append(rationale)
        else:
            rejected.append(rationale.model_copy(update={"reason": reason}))
            stage.count(f"rejected_{reason}")
    stage.count("rationales_accepted", write_jsonl(stage.dir / "rationales.jsonl", accepted))
    stage.count("rationales_rejected", write_jsonl(stage.dir / "rejected.jsonl", rejected))
    logger.info("%d rationales accepted, %d rejected", len(accepted), len(rejected))
    return accepted


def _rationale(study: Study, teacher: str, entries: tuple[RationaleEntry, ...]) -> Rationale:
    return Rationale(study_id=study.study_id, teacher=teacher, entries=entries, text=joined_text(entries))


def _write_template(stage: StageWriter, tasks: Sequence[Task]) -> None:
    """The control from explicit labels alone; a study whose report names nothing has no text."""
    rationales = []
    for task in tasks:
        if task.named:
            entries = in_order([template_entry(request) for request in task.named])
            rationales.append(_rationale(task.study, "template", entries))
    stage.count("templates", write_jsonl(stage.dir / "template.jsonl", rationales))
