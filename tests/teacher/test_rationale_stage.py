"""The stage as a whole: what is written for whom, and what never is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from kdistill.artifact import StageWriter
from kdistill.literature.search import PassageIndex
from kdistill.records import Rationale, read_jsonl
from kdistill.teacher.config import EndpointConfig, RationalesConfig, ReadingConfig, TeacherConfig
from kdistill.teacher.rationale_stage import build_rationales, privileged_prompt

from .servers import Server, completion
from .worlds import read_lines, studies_at, study, tiny_config

CONFIG = RationalesConfig(reading=ReadingConfig(min_posterior=0.3, min_margin_nats=0.1))
STUDIES = [
    study("named", "Small left pleural effusion. No pneumothorax."),
    study("described", "A meniscus climbs the chest wall on the right. No pneumothorax."),
    study("again", "A meniscus climbs the chest wall on the left. No pneumothorax."),
    study("columns", "", labels={"Cardiomegaly": 1, "Pneumothorax": 0, "Edema": None}),
    study("beaten", "There is cardiomegaly.", labels={"Cardiomegaly": 0}),
    study("silent", ""),
    study("vague", "Seen."),
    study("seen", "Right pneumothorax.", "validate"),
    study("secret", "Bilateral rib fracture. A meniscus climbs the chest wall.", "test"),
]


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory, literature_dir: Path, teacher_dir: Path) -> StageWriter:
    return build(tmp_path_factory.mktemp("select"), literature_dir, teacher_dir, CONFIG)


def build(
    folder: Path,
    literature_dir: Path,
    teacher_dir: Path,
    config: RationalesConfig,
    untrained: TeacherConfig | None = None,
) -> StageWriter:
    studies_dir, labels_dir = studies_at(folder, STUDIES)
    writer = StageWriter(folder / "rationales")
    writer.dir.mkdir()
    build_rationales(
        writer,
        config,
        literature_dir=literature_dir,
        teacher_dir=teacher_dir,
        studies_dir=studies_dir,
        labels_dir=labels_dir,
        untrained=untrained,
    )
    return writer


def test_the_untrained_control_infers_nothing_and_shares_the_vocabulary(
    tmp_path: Path, stage: StageWriter, literature_dir: Path, teacher_dir: Path
) -> None:
    """The same architecture, tokenizer, reports and passages: what differs is what the model learned from articles."""
    careful = RationalesConfig()  # thresholds that chance does not pass
    control = build(tmp_path, literature_dir, teacher_dir, careful, tiny_config(steps=900))
    accepted = by_study(control, "rationales.jsonl")
    assert {r.teacher for r in accepted.values()} == {"from_scratch-untrained/select"}
    found = {entry.observation for entry in by_study(stage, "rationales.jsonl")["described"].entries}
    assert "Pleural Effusion" in found  # by the meniscus, which means nothing to the control:
    assert accepted["described"].text == "No acute abnormality. No pneumothorax."
    facts, expected = (
        [(entry.observation, entry.state, entry.side) for entry in by_study(one, "rationales.jsonl")["named"].entries]
        for one in (control, stage)
    )
    assert facts == expected  # what the report names needs no knowledge
    mine, theirs = (load_file(one.dir / "targets.safetensors") for one in (control, stage))
    # A model that knows nothing spreads its mass: the kept entries hold little of it.
    assert mine["residual_logprob"].mean() > theirs["residual_logprob"].mean()


def by_study(stage: StageWriter, name: str) -> dict[str, Rationale]:
    return {r.study_id: r for r in read_jsonl(stage.dir / name, Rationale)}


def test_planted_leak_a_test_study_is_in_no_file(stage: StageWriter) -> None:
    for file in stage.dir.iterdir():
        content = file.read_bytes()
        assert b"secret" not in content and b"ilateral rib" not in content, file.name


def test_validation_is_read_but_not_written(stage: StageWriter) -> None:
    readings = {line["study_id"]: line for line in read_lines(stage.dir / "readings.jsonl")}
    assert readings["seen"]["split"] == "validate" and readings["seen"]["labels"]["Pneumothorax"] == 1
    assert len(readings["seen"]["labels"]) == 14
    for name in ("rationales.jsonl", "rejected.jsonl", "template.jsonl"):
        assert "seen" not in by_study(stage, name)


def test_every_study_is_accounted_for(stage: StageWriter) -> None:
    counts = stage.counts
    assert counts["studies_read"] == 6 and counts["studies_without_report"] == 2
    written = counts["rationales_accepted"] + counts["rationales_rejected"]
    assert written == counts["rationales_from_reports"] + counts["rationales_from_label_columns"] == 5
    assert counts["studies_without_anything_to_explain"] == 2 and counts["rationales_from_label_columns"] == 1


def test_rationales_say_what_the_reports_say(stage: StageWriter) -> None:
    accepted = by_study(stage, "rationales.jsonl")
    assert not by_study(stage, "rejected.jsonl")
    assert accepted["named"].text.startswith("No pneumothorax. Mild left pleural effusion. ")
    assert accepted["described"].entries[-1].side == "right" and accepted["described"].entries[-1].citations
    assert accepted["described"].entries[-1].evidence == ("A meniscus climbs the chest wall on the right.",)
    assert accepted["beaten"].text == "No cardiomegaly."
    assert accepted["columns"].text.startswith("Cardiomegaly. ")
    assert all(r.teacher == "from_scratch/select" and r.reason is None for r in accepted.values())


def test_citations_hold(stage: StageWriter, index: PassageIndex) -> None:
    quotes = [c for r in by_study(stage, "rationales.jsonl").values() for e in r.entries for c in e.citations]
    assert len(quotes) >= 4
    for quote in quotes:
        article = index.article(quote.article_id)
        assert article is not None and quote.quote in article.text


def test_template_knows_only_what_is_named(stage: StageWriter) -> None:
    template = by_study(stage, "template.jsonl")
    assert [e.observation for e in template["described"].entries if e.observation != "No Finding"] == ["Pneumothorax"]
    assert {e.observation for e in template["named"].entries} == {"Pneumothorax", "Pleural Effusion"}
    assert not any(e.citations or e.mechanism for r in template.values() for e in r.entries)


def test_targets_follow_the_order_of_rationales(stage: StageWriter) -> None:
    accepted = list(read_jsonl(stage.dir / "rationales.jsonl", Rationale))
    tensors = load_file(stage.dir / "targets.safetensors")
    assert len(tensors["token_offsets"]) == len(accepted) + 1 == len(tensors["entry_state"]) + 1
    for number, rationale in enumerate(accepted):
        assert (tensors["entry_state"][number] != -2).sum() == len(rationale.entries)


def test_generate_writes_or_rejects_by_name(tmp_path: Path, literature_dir: Path, teacher_dir: Path) -> None:
    short = CONFIG.model_copy(update={"writer": "generate", "max_new_tokens": 24, "max_attempts": 2})
    stage = build(tmp_path, literature_dir, teacher_dir, short)
    rejected = by_study(stage, "rejected.jsonl")
    assert len(by_study(stage, "rationales.jsonl")) + len(rejected) == 5
    assert all(r.reason for r in rejected.values())
    assert sum(n for name, n in stage.counts.items() if name.startswith("rejected_")) == len(rejected)


def test_equal_inputs_give_equal_bytes(
    stage: StageWriter, tmp_path: Path, literature_dir: Path, teacher_dir: Path
) -> None:
    again = build(tmp_path, literature_dir, teacher_dir, CONFIG)
    for name in (
        "readings.jsonl",
        "rationales.jsonl",
        "template.jsonl",
        "statements.jsonl",
        "targets.safetensors",
        "aspects.jsonl",
        "aspects.safetensors",
    ):
        assert (again.dir / name).read_bytes() == (stage.dir / name).read_bytes(), name


def test_the_privileged_prompt_is_a_case() -> None:
    assert privileged_prompt("Clear.\nNormal.") == "Findings: Clear. Normal. Interpretation:"
    assert privileged_prompt(" ") == "Interpretation:"


def test_teacher_stage_shows_before_and_after(teacher_dir: Path) -> None:
    figures = json.loads((teacher_dir / "metrics.json").read_text())["bits_per_byte"]
    assert 0 < figures["after"]["value"] < 0.7 * figures["before"]["value"]
    probe = json.loads((teacher_dir / "probe.json").read_text())
    assert probe["trained"]["all"]["n"] == 2 and probe["trained"]["declarative_only"]["n"] == 1
    assert probe["chance"] == pytest.approx(1 / 13) and "all" in probe["untrained"]
    steps = [line["step"] for line in read_lines(teacher_dir / "history.jsonl")]
    assert steps == sorted(steps) and steps[-1] == 900


def test_an_endpoint_writes_and_the_teacher_reads(
    stage: StageWriter, tmp_path: Path, literature_dir: Path, teacher_dir: Path
) -> None:
    server = Server()
    server.replies = lambda n, body: (200, completion("fluid collects where the chest is lowest"), {})
    endpoint = EndpointConfig(url=server.url, model="big-chat", parallel=1)
    written = build(
        tmp_path,
        literature_dir,
        teacher_dir,
        CONFIG.model_copy(update={"writer": "endpoint", "endpoint": endpoint}),
    )
    server.http.shutdown()
    server.http.server_close()
    accepted = by_study(written, "rationales.jsonl")
    assert set(accepted) == set(by_study(stage, "rationales.jsonl"))
    assert {r.teacher for r in accepted.values()} == {"big-chat/endpoint"}
    assert accepted["named"].entries[-1].text == (
        "Mild left pleural effusion, because fluid collects where the chest is lowest."
    )
    assert (written.dir / "readings.jsonl").read_bytes() == (stage.dir / "readings.jsonl").read_bytes()
    sent = json.dumps(server.asked)
    assert "A meniscus climbs the chest wall on the right." in sent and "ilateral rib" not in sent
    assert all("<data>" in body["messages"][1]["content"] for body in server.asked)
    assert (written.dir / "checkpoints" / "answers.jsonl").is_file()  # published folders lose it
