"""End to end, through the command line, at the smallest size: what a run leaves behind, and what it refuses."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from queue import Queue
from threading import Event

import pytest
import yaml

from kdistill.artifact import find_stages, lock_run, read_manifest, verify_stage
from kdistill.cli.terminal import TerminalWatcher
from kdistill.errors import PolicyError
from kdistill.interrupt import Interrupted
from kdistill.pipeline.recipe import load_recipe
from kdistill.pipeline.run import _student_in_worker, make_selected, run_recipe
from kdistill.pipeline.stages import RunFolder
from kdistill.records import write_jsonl
from kdistill.studies.phantom.knowledge import probe_items

from .tiny import TINY, kdistill, write_recipe

STAGES = {
    "studies",
    "literature",
    "labels",
    "teacher",
    "rationales",
    "student/label/seed-0",
    "student/full/seed-0",
    "student/classifier_template/seed-0",
    "evaluation",
    "audit",
    "report",
}
#: INTERFACE: files that scripts outside the project read.
CONTRACT = {
    "evaluation/scores.json",
    "evaluation/comparisons.json",
    "audit/audit.json",
    "rationales/rationales.jsonl",
    "rationales/rejected.jsonl",
    "student/full/seed-0/predictions.parquet",
    "report/report.html",
}


def identities(run: Path) -> dict[str, str]:
    return {stage.relative_to(run).as_posix(): read_manifest(stage).identity for stage in find_stages(run)}


def test_every_stage_is_published_and_verifies(tiny_run):
    _, run = tiny_run
    assert set(identities(run)) == STAGES
    assert all(verify_stage(run / name) == [] for name in STAGES)
    assert all((run / name).is_file() for name in CONTRACT)
    assert "ok" in kdistill("verify", str(run)).stdout


def test_scores_have_the_keys_of_the_contract(tiny_run):
    _, run = tiny_run
    keys = {"name", "arm", "split", "average", "observation", "observations", "uncertain", "labeler", "reference"}
    keys |= {"value", "ci95", "n", "num_positive", "seeds", "reason"}
    scores = json.loads((run / "evaluation" / "scores.json").read_text())
    assert scores and all(keys <= set(score) for score in scores)
    assert all(score["reason"] for score in scores if score["value"] is None)
    rows = json.loads((run / "audit" / "audit.json").read_text())
    assert rows and all({"test", "arm", "value", "baseline", "ci95", "n", "passed", "reason"} <= set(r) for r in rows)


def test_no_test_study_reaches_the_rationales(tiny_run):
    _, run = tiny_run
    tests = {
        study["study_id"]
        for line in (run / "studies" / "studies.jsonl").read_text().splitlines()
        if (study := json.loads(line))["split"] != "train"
    }
    written = (run / "rationales" / "rationales.jsonl").read_text() + (
        run / "rationales" / "template.jsonl"
    ).read_text()
    assert tests and not any(f'"{study_id}"' in written for study_id in tests)


def test_an_existing_run_is_never_overwritten(tiny_run):
    recipe, run = tiny_run
    before = identities(run)
    done = kdistill("run", str(recipe), "--out", str(run), check=3)
    assert "--resume" in done.stderr and "--fresh" in done.stderr
    done = kdistill("run", str(recipe), "distillation.learning_rate=0.1", "--out", str(run), "--resume", check=3)
    assert "distillation.learning_rate" in done.stderr
    assert identities(run) == before


def test_seeds_and_arms_may_be_added_to_a_run_but_not_taken_away(tiny_run, tmp_path):
    recipe, run = tiny_run
    longer = tmp_path / "run"
    shutil.copytree(run, longer)
    saved = yaml.safe_load((longer / "recipe.yaml").read_text())
    del saved["evaluation"]["comparisons"][3:]  # as an earlier version compared
    (longer / "recipe.yaml").write_text(yaml.safe_dump(saved))
    more = "distillation.arms=[label, full, untrained_teacher, classifier_template, classifier_template_full]"
    done = kdistill("run", str(recipe), more, "--out", str(longer), "--resume")
    assert {name: found for name, found in identities(longer).items() if name in STAGES and "student" in name} == {
        name: found for name, found in identities(run).items() if "student" in name
    }
    assert (longer / "student" / "classifier_template_full" / "seed-0" / "predictions.parquet").is_file()
    assert done.stderr.count("up to date") == len(STAGES) - 3  # all but evaluation, audit and report
    control = read_manifest(longer / "student" / "untrained_teacher" / "seed-0").inputs["rationales"]
    assert control == read_manifest(longer / "rationales_untrained").identity
    assert control != read_manifest(longer / "rationales").identity
    done = kdistill("run", str(recipe), "--out", str(longer), "--resume", check=3)
    assert "distillation.arms" in done.stderr


def test_a_run_of_an_earlier_version_goes_on_under_new_settings_at_their_defaults(tiny_run, tmp_path):
    recipe, run = tiny_run
    older = tmp_path / "run"
    shutil.copytree(run, older)
    saved = yaml.safe_load((older / "recipe.yaml").read_text())
    del saved["audit"]["map_baselines"], saved["distillation"]["text_every"]
    (older / "recipe.yaml").write_text(yaml.safe_dump(saved))
    done = kdistill("run", str(recipe), "--out", str(older), "--resume")
    assert done.stderr.count("up to date") == len(STAGES)
    done = kdistill("run", str(recipe), "distillation.text_every=2", "--out", str(older), "--resume", check=3)
    assert "distillation.text_every" in done.stderr


def test_resume_of_a_finished_run_makes_nothing(tiny_run):
    recipe, run = tiny_run
    done = kdistill("run", str(recipe), "--out", str(run), "--resume")
    assert done.stderr.count("up to date") == len(STAGES)


def test_a_run_in_use_is_refused_with_the_pid(tiny_run):
    recipe, run = tiny_run
    with lock_run(run):
        done = kdistill("run", str(recipe), "--out", str(run), "--resume", check=3)
    assert str(os.getpid()) in done.stderr


def test_a_launcher_of_several_processes_is_refused_with_what_to_do(tmp_path, monkeypatch):
    """Under torchrun one process would hold the run and the others would only find it in use."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    recipe, watcher = load_recipe(str(write_recipe(tmp_path / "r.yaml"))), TerminalWatcher(quiet=True)
    with pytest.raises(PolicyError, match="processes: 2"):
        run_recipe(recipe, tmp_path / "run", watcher)
    with pytest.raises(PolicyError, match="Start it once, without the launcher"):
        make_selected(recipe, RunFolder(tmp_path / "run"), [], watcher)
    assert not (tmp_path / "run").exists()


def test_dry_run_writes_nothing(tiny_run, tmp_path):
    recipe, _ = tiny_run
    done = kdistill("run", str(recipe), "--dry-run", "--json", "--out", str(tmp_path / "x"))
    found = json.loads(done.stdout)
    assert found["studies"]["train"] == 40 and found["student_parameters"] > 1000
    assert not (tmp_path / "x").exists()


def kill_when(recipe: Path, run: Path, seen: Path) -> None:
    """Start the run, wait until `seen` matches a path in it, kill -9."""
    process = subprocess.Popen(
        [sys.executable, "-m", "kdistill.cli.main", "run", str(recipe), "--out", str(run), "--resume"],
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    end = time.monotonic() + 200
    try:
        while not any(run.glob(str(seen))):
            assert process.poll() is None, "the run ended before it could be killed"
            assert time.monotonic() < end
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def resume_equals(tiny_run: tuple[Path, Path], run: Path, places: list[str]) -> None:
    recipe, finished = tiny_run
    for place in places:
        kill_when(recipe, run, Path(place))
    kdistill("run", str(recipe), "--out", str(run), "--resume")
    resumed, whole = identities(run), identities(finished)
    assert resumed.keys() == whole.keys()
    # Weights, tables and JSONL are equal byte for byte; the report's page shows when each stage was made.
    assert {k: v for k, v in resumed.items() if k != "report"} == {k: v for k, v in whole.items() if k != "report"}


def test_kill_9_in_training_and_resume_end_in_the_same_bytes(tiny_run, tmp_path):
    """FAULTS 33: teacher and student go on from their checkpoints to the bytes of the uninterrupted run."""
    places = [
        ".teacher.partial/checkpoints/checkpoint-10/seal.json",
        "student/full/.seed-0.partial/checkpoints/checkpoint-10/seal.json",
    ]
    resume_equals(tiny_run, tmp_path / "run", places)


@pytest.mark.slow
def test_kill_9_at_every_stage(tiny_run, tmp_path):
    names = sorted(STAGES - {"evaluation", "audit", "report"})
    partial = [str(Path(name).parent / f".{Path(name).name}.partial") for name in names]
    order = ["studies", "literature", "labels", "teacher", "rationales", "student/label", "student/full", "student/c"]
    partial.sort(
        key=lambda path: next(i for i, name in enumerate(order) if name in path.replace("/.", "/").lstrip("."))
    )
    resume_equals(tiny_run, tmp_path / "run", [*partial, ".evaluation.partial", ".audit.partial", ".report.partial"])


def test_sigterm_saves_and_stops_with_143(tiny_run, tmp_path):
    """FAULTS 34, on a real run: the first signal leaves a checkpoint, and resume ends in the same bytes."""
    recipe, finished = tiny_run
    run = tmp_path / "run"
    process = subprocess.Popen(
        [sys.executable, "-m", "kdistill.cli.main", "run", str(recipe), "--out", str(run)],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    while not any(run.glob(".teacher.partial/checkpoints/checkpoint-10")):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 143 and "--resume" in error and "Traceback" not in error
    kdistill("teacher", "train", str(recipe), "--out", str(run))
    assert identities(run)["teacher"] == identities(finished)["teacher"]


def test_a_worker_between_two_students_stops_too(tiny_run):
    """A signal that finds it there is ignored; it has to see the flag before it begins the next one."""
    recipe, run = tiny_run
    stopping = Event()
    stopping.set()
    text = load_recipe(str(recipe)).model_dump_json()
    messages: Queue[tuple] = Queue()
    with pytest.raises(Interrupted):
        _student_in_worker(text, str(run), "full", 0, messages, stopping)
    assert messages.empty() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_any_folder_runs_through_the_same_recipe_by_one_line(tmp_path):
    """The plain folder layout: phantom studies of another seed, written by the command line and read back."""
    kdistill("phantom", "render", "--out", str(tmp_path / "data"), "--num", "60", "--seed", "9300", "--size-px", "64")
    assert "studies" in kdistill("data", "check", str(tmp_path / "data")).stdout
    studies = {"kind": "folder", "path": str(tmp_path / "data"), "size_px": 64}
    settings = {**TINY["distillation"], "arms": ["full"], "num_image_visits": 40}  # type: ignore[dict-item]
    recipe = write_recipe(tmp_path / "folder.yaml", studies=studies, distillation=settings)
    kdistill("run", str(recipe), "--out", str(tmp_path / "run"))
    scores = json.loads((tmp_path / "run" / "evaluation" / "scores.json").read_text())
    assert any(score["reference"] == "truth" and score["value"] is not None for score in scores)


def test_the_teacher_answers_signs_of_ones_own(tiny_run: tuple[Path, Path], tmp_path: Path) -> None:
    """On the items that the stage itself asked, the command gives the stage's own figures."""
    _, run = tiny_run
    items = tmp_path / "items.jsonl"
    write_jsonl(items, probe_items())
    answered = json.loads(kdistill("teacher", "probe", str(run), "--items", str(items), "--json").stdout)
    assert answered["trained"] == json.loads((run / "teacher" / "probe.json").read_text())["trained"]


def test_a_probe_item_of_no_observation_is_named(tiny_run: tuple[Path, Path], tmp_path: Path) -> None:
    _, run = tiny_run
    items = tmp_path / "items.jsonl"
    items.write_text('{"phrase": "a black rim", "observation": "Gas"}\n')
    done = kdistill("teacher", "probe", str(run), "--items", str(items), check=2)
    assert "items.jsonl line 1: observation: 'Gas' is none of Enlarged Cardiomediastinum" in done.stderr
