"""What readers said, read back as a reference: whose word counts, and the way to a score."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from kdistill.cli.main import app as command_line
from kdistill.errors import InputError
from kdistill.explain.build import explain
from kdistill.explain.explanation import Explanation
from kdistill.serve.feedback import FeedbackStore
from kdistill.serve.feedback_export import majority

from ..explain.conftest import make_reading
from .speaking import EDEMA, explained, judgement, lines, serving
from .telling import context, decoded, png

states = st.lists(st.sampled_from(["present", "absent", "uncertain"]), min_size=1, max_size=9)


@given(states)
def test_majority(said: list) -> None:
    counts = {state: said.count(state) for state in said}
    winners = [state for state, count in counts.items() if count == max(counts.values())]
    expected = {"present": 1, "absent": 0, "uncertain": -1}[winners[0]] if len(winners) == 1 else -1
    assert majority(said) == expected == majority(said[::-1])


def test_a_named_reader_counts_once_for_an_image_and_a_nameless_one_for_each_result(file: Path) -> None:
    store = FeedbackStore(file)
    absent = {"verdict": "disagree", "state": "absent"}
    store.add("a", judgement(reader="Ada"))
    store.add("b", judgement(reader="Ada", **absent))  # the same image, a second time
    assert lines(file)[0]["labels"] == {"Edema": 0} and lines(file)[0]["num_readers"] == {"Edema": 1}
    store.add("a", judgement())
    store.add("b", judgement())
    assert lines(file)[0]["labels"] == {"Edema": 1} and lines(file)[0]["num_readers"] == {"Edema": 3}
    store.add("c", judgement(reader="Bo", **absent))
    assert lines(file)[0]["labels"] == {"Edema": -1} and lines(file)[0]["num_readers"] == {"Edema": 4}
    store.close()


def test_an_export_is_a_reference_for_the_explanations_of_explain(file: Path, tmp_path: Path) -> None:
    """The whole way: films judged in the reading room, explained by a command, scored by another."""
    explanations: list[Explanation] = []
    with serving(file) as client:
        for seed, verdict in enumerate([{}, {"verdict": "disagree", "state": "absent"}, {"verdict": "agree"}]):
            result = explained(client, png(seed))
            assert client.post(f"{result}/feedback", json={**EDEMA, **verdict}).status_code == 200
            image = decoded(png(seed), f"film-{seed}.png")
            reading = make_reading({"Edema": (0.9, 0.2, 0.7)[seed]}, findings="There is edema.")
            explanations.append(explain(image.study_id, image.pixels, reading, context(), image_sha256=image.sha256))
    refused = explanations[0].model_copy(update={"abstained": True, "image_sha256": "0" * 64})
    out, predictions = tmp_path / "feedback.jsonl", tmp_path / "preds.json"
    run = CliRunner().invoke(command_line, ["feedback", "export", str(file), "--out", str(out)])
    assert run.exit_code == 0 and len(out.read_text().splitlines()) == 3
    predictions.write_text(json.dumps([e.model_dump(mode="json") for e in (*explanations, refused)]))
    command = ["score", "--reference", str(out), "--predictions", str(predictions), "--json"]
    done = CliRunner().invoke(command_line, [*command, "--key", "image_sha256"])
    assert done.exit_code == 0, done.output
    assert "1 explanations abstained and are left out" in done.stderr
    rows = {
        (row["name"], row["uncertain"]): row
        for row in json.loads(done.stdout)
        if row["observation"] == "Edema" and row["arm"] == "preds"
    }
    assert rows["auc", "masked"]["value"] == 1.0 and rows["auc", "masked"]["n"] == 3
    assert rows["report_f1", "negative"]["value"] == pytest.approx(0.8)  # all three reports state it, one is wrong
    unmatched = CliRunner().invoke(command_line, command)
    assert isinstance(unmatched.exception, InputError) and "--key image_sha256" in str(unmatched.exception)


def test_the_command_line_says_what_is_wrong(tmp_path: Path) -> None:
    missing = CliRunner().invoke(command_line, ["feedback", "export", str(tmp_path / "none.sqlite")])
    assert isinstance(missing.exception, InputError) and "no such file" in str(missing.exception)
    FeedbackStore(tmp_path / "empty.sqlite").close()
    assert CliRunner().invoke(command_line, ["feedback", "export", str(tmp_path / "empty.sqlite")]).stdout == ""
