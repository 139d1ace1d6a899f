"""FAULTS 33, 35, 37 for a stage's folder; 21 to 34 have their own places."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap

import pytest

from kdistill.artifact import (
    adopt_stage,
    find_stages,
    is_current,
    lock_run,
    open_stage,
    partial_dir,
    read_manifest,
    verify_stage,
)
from kdistill.errors import EnvironmentFault, InputError, PolicyError


def publish(folder, text="hello", config=None, inputs=None):
    with open_stage(folder, stage="s", config=config or {"a": 1}, inputs=inputs) as stage:
        (stage.dir / "data.txt").write_text(text)
        stage.count("kept", 3)
    return folder


def test_a_published_folder_verifies_and_counts(tmp_path):
    folder = publish(tmp_path / "s")
    assert verify_stage(folder) == []
    manifest = read_manifest(folder)
    assert manifest.counts == {"kept": 3}
    assert set(manifest.files) == {"data.txt", "config.yaml"}
    assert find_stages(tmp_path) == [folder]


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda f: (f / "data.txt").write_text("hellO"), "content differs"),
        (lambda f: (f / "data.txt").write_text("hell"), "4 bytes, the manifest says 5"),
        (lambda f: (f / "data.txt").unlink(), "missing"),
        (lambda f: (f / "manifest.json").write_text("{"), "damaged"),
        (lambda f: (f / "manifest.json").unlink(), "not a published stage"),
        (lambda f: _edit(f, lambda m: m["files"].pop("data.txt")), "identity"),
    ],
)
def test_every_damage_is_found(tmp_path, damage, problem):
    folder = publish(tmp_path / "s")
    damage(folder)
    assert any(problem in text for text in verify_stage(folder))
    assert not is_current(folder, config={"a": 1})


def _edit(folder, change):
    path = folder / "manifest.json"
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def test_a_failing_builder_publishes_nothing_and_keeps_the_old(tmp_path):
    folder = publish(tmp_path / "s", "old")
    with pytest.raises(ZeroDivisionError), open_stage(folder, stage="s", config={"a": 2}):
        raise ZeroDivisionError
    assert (folder / "data.txt").read_text() == "old"
    assert verify_stage(folder) == []


def test_identity_ignores_time_but_not_content_config_or_inputs(tmp_path):
    first, second = publish(tmp_path / "a"), publish(tmp_path / "b")
    assert read_manifest(first).identity == read_manifest(second).identity
    others = [
        publish(tmp_path / "c", "other"),
        publish(tmp_path / "d", config={"a": 2}),
        publish(tmp_path / "e", inputs={"x": first}),
    ]
    assert len({read_manifest(f).identity for f in [first, *others]}) == 4


def test_up_to_date_follows_config_and_inputs(tmp_path):
    source = publish(tmp_path / "in")
    folder = publish(tmp_path / "s", inputs={"in": source})
    assert is_current(folder, config={"a": 1}, inputs={"in": source})
    assert not is_current(folder, config={"a": 2}, inputs={"in": source})
    publish(source, "changed")
    assert not is_current(folder, config={"a": 1}, inputs={"in": source})


def test_a_stage_is_taken_over_only_if_it_is_the_same(tmp_path):
    there, here = publish(tmp_path / "one" / "s"), tmp_path / "two" / "s"
    assert not adopt_stage(here, tmp_path / "none", config={"a": 1})
    assert not adopt_stage(here, there, config={"a": 2})
    assert not here.exists()
    assert adopt_stage(here, there, config={"a": 1})
    assert verify_stage(here) == [] and read_manifest(here) == read_manifest(there)
    publish(there, "other")  # publishing replaces a folder and never writes into the linked files
    assert (here / "data.txt").read_text() == "hello"


def test_a_damaged_stage_is_not_taken_over(tmp_path):
    there = publish(tmp_path / "one")
    (there / "data.txt").write_text("hellO")
    assert not adopt_stage(tmp_path / "two", there, config={"a": 1})


@pytest.mark.parametrize("resumable", [True, False])
def test_a_killed_stage_leaves_its_checkpoints_only_to_itself(tmp_path, resumable):
    folder = tmp_path / "s"

    def attempt(config, fail):
        with open_stage(folder, stage="s", config=config, resumable=resumable) as stage:
            kept = stage.dir / "checkpoints" / "step"
            found = kept.is_file()
            kept.parent.mkdir(exist_ok=True)
            kept.write_text("x")
            if fail:
                raise KeyboardInterrupt
        return found

    with pytest.raises(KeyboardInterrupt):
        attempt({"a": 1}, True)
    assert partial_dir(folder).is_dir() and not folder.exists()
    assert attempt({"a": 1}, False) is resumable
    assert not (folder / "checkpoints").exists()
    with pytest.raises(KeyboardInterrupt):
        attempt({"a": 2}, True)
    assert attempt({"a": 3}, False) is False


def test_a_full_disk_is_an_environment_fault_and_leaves_the_old_folder(tmp_path, monkeypatch):
    folder = publish(tmp_path / "s", "old")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(EnvironmentFault, match="No space left") as caught:
        publish(folder, "new")
    monkeypatch.undo()
    assert caught.value.exit_code == 4
    assert (folder / "data.txt").read_text() == "old" and verify_stage(folder) == []


def test_a_file_that_a_builder_misses_is_no_full_disk(tmp_path):
    """It used to say "cannot be written" and to ask for space."""
    with (
        pytest.raises(EnvironmentFault, match="could not be made.*No such file") as caught,
        open_stage(tmp_path / "s", stage="s", config={}),
    ):
        (tmp_path / "gone").read_bytes()
    assert "Free space" not in str(caught.value) and "gone" not in str(caught.value)


def test_a_missing_input_names_itself(tmp_path):
    with pytest.raises(InputError, match="not a published stage"):
        publish(tmp_path / "s", inputs={"x": tmp_path / "nowhere"})


def test_a_second_process_is_refused_with_the_pid(tmp_path):
    with lock_run(tmp_path), pytest.raises(PolicyError, match=str(os.getpid())) as caught, lock_run(tmp_path):
        pass
    assert caught.value.exit_code == 3
    with lock_run(tmp_path):
        pass


def test_kill_9_releases_the_lock_and_publishes_nothing(tmp_path):
    code = textwrap.dedent(
        """
        import sys, time
        from pathlib import Path
        from kdistill.artifact import lock_run, open_stage
        run = Path(sys.argv[1])
        with lock_run(run), open_stage(run / "s", stage="s", config={}) as stage:
            (stage.dir / "data.txt").write_text("half")
            print("ready", flush=True)
            time.sleep(60)
        """
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    with pytest.raises(PolicyError, match=str(process.pid)), lock_run(tmp_path):
        pass
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    with lock_run(tmp_path):
        assert find_stages(tmp_path) == []
        publish(tmp_path / "s")
    assert verify_stage(tmp_path / "s") == []
