"""What a user types: help, errors in one sentence, exit codes, outputs of the contract."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest

from ..pipeline.tiny import kdistill

COMMANDS = [
    [],
    ["run"],
    ["demo"],
    ["verify"],
    ["doctor"],
    ["evaluate"],
    ["audit"],
    ["explain"],
    ["serve"],
    ["feedback", "export"],
    ["label"],
    ["score"],
    ["convert-chexbert"],
    ["literature", "build"],
    ["literature", "search"],
    ["teacher", "train"],
    ["teacher", "probe"],
    ["rationales", "write"],
    ["rationales", "show"],
    ["student", "train"],
    ["data", "check"],
    ["data", "deidentify"],
    ["phantom", "render"],
    ["dicom", "listen"],
    ["dicom", "send"],
]


def test_every_command_of_the_contract_has_help():
    from typer.testing import CliRunner

    from kdistill.cli.main import app

    for command in COMMANDS:
        done = CliRunner().invoke(app, [*command, "--help"])
        assert done.exit_code == 0, command
        assert "Usage:" in done.output


def test_help_loads_neither_torch_nor_transformers():
    code = (
        "import sys\nfrom kdistill.cli.main import app\ntry:\n    app(['--help'])\nexcept SystemExit: pass\n"
        "assert not {'torch', 'transformers', 'numpy'} & set(sys.modules), 'heavy imports'"
    )
    begin = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    # 0.3 to 0.5 s on a quiet core; the bound only rejects an import of torch (2.3 s there).
    assert time.perf_counter() - begin < 5


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["run", "demoo"], 2, ["did you mean 'demo'", "Shipped recipes"]),
        (["run", "demo", "distilation.seeds=1"], 2, ["distilation", "did you mean 'distillation'"]),
        (["run", "demo", "teacher.vocab_size=many"], 2, ["vocab_size"]),
        (["run", "demo", "oops"], 2, ["dotted.key=value"]),
        (["verify", "nowhere"], 2, ["nowhere", "no published stage"]),
        (["evaluate", "nowhere"], 2, ["no recipe.yaml"]),
        (["explain", "nowhere", "x.png"], 2, ["x.png", "no such file"]),
        (["dicom", "listen", "nowhere"], 2, ["--to", "--out"]),
        (["dicom", "listen", "nowhere", "--out", "x"], 2, ["nowhere", "there is no such folder", "runs/demo"]),
        (["dicom", "listen", "nowhere", "--out", "x", "--host", "0.0.0.0"], 3, ["--allow"]),
        (["dicom", "listen", "nowhere", "--out", "x", "--lateral", "maybe"], 2, ["lateral", "refuse"]),
        (["dicom", "send", "nowhere.dcm", "--to", "PACS"], 2, ["--to", "AET@host:port"]),
        (["dicom", "send", "nowhere.dcm", "--to", "PACS@127.0.0.1:104"], 2, ["nowhere.dcm", "no such file"]),
        (["label", "missing.csv"], 2, ["missing.csv"]),
        (["label", "-", "--labeler", "chexbert"], 2, ["--checkpoint"]),
        (["label", "-", "--labeler", "chexbert", "--checkpoint", "nowhere"], 2, ["nowhere", "convert-chexbert"]),
        (["label", "-", "--labeler", "chexpert"], 2, ["chexpert", "rules or chexbert"]),
        (["label", "-", "--checkpoint", "nowhere"], 2, ["--labeler chexbert"]),
        (["convert-chexbert", "nowhere.pth", "out"], 2, ["nowhere.pth"]),
        (["literature", "build"], 2, ["--source"]),
        (["literature", "search", "nowhere", "x"], 2, ["nowhere"]),
        (["rationales", "show", "nowhere", "s1"], 2, ["nowhere"]),
        (["data", "check", "demo"], 2, ["rendered", "phantom render"]),
        (["data", "check", "nowhere"], 2, ["nowhere"]),
        (["data", "check", "."], 2, ["no studies.csv", "docs/data.md"]),
        (["data", "deidentify", ".", "out"], 2, ["no image that can be used"]),
        (["data", "deidentify", "nowhere", "out", "--key-file", "k"], 2, ["k"]),
    ],
)
def test_errors_are_one_sentence_with_a_remedy(arguments, code, words, tmp_path):
    done = kdistill(*arguments, cwd=tmp_path, check=code)
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("error: ")
    assert all(word.lower() in done.stderr.lower() for word in words), done.stderr


def test_label_prints_the_contract(tmp_path):
    table = tmp_path / "r.csv"
    table.write_text('id,report\na,"No effusion. Cardiomegaly, unchanged."\nb,\n')
    lines = kdistill("label", str(table), "--json").stdout.splitlines()
    first = json.loads(lines[0])
    assert first["id"] == "a" and len(first["labels"]) == 14
    assert first["labels"]["Pleural Effusion"] == 0 and first["labels"]["Cardiomegaly"] == 1
    assert json.loads(lines[1])["labels"]["Edema"] is None
    table_lines = kdistill("label", str(table)).stdout.splitlines()
    assert table_lines[0].startswith("id,No Finding,") and len(table_lines) == 3


def test_label_and_score_by_chexbert(tmp_path):
    from ..labelers.chexbert_files import random_state, write_official, write_vocabulary

    write_official(tmp_path / "chexbert.pth", random_state())
    write_vocabulary(tmp_path)
    kdistill("convert-chexbert", "chexbert.pth", "weights", "--vocab", "vocab.txt", cwd=tmp_path)
    table = tmp_path / "r.csv"
    table.write_text('study_id,report\na,"No effusion. The heart is enlarged."\nb,Lungs are clear.\n')
    with_weights = ("--labeler", "chexbert", "--checkpoint", "weights")
    lines = kdistill("label", "r.csv", "--json", *with_weights, cwd=tmp_path).stdout.splitlines()
    labels = [json.loads(line)["labels"] for line in lines]
    assert len(labels) == 2 and len(labels[0]) == 14 and labels[0] != labels[1]
    done = kdistill("score", "--reference", "r.csv", "--predictions", "r.csv", "--json", *with_weights, cwd=tmp_path)
    scores = [row for row in json.loads(done.stdout) if row["name"] == "report_f1" and row["average"] == "micro"]
    assert scores and all(row["value"] == 1.0 and row["labeler"].startswith("chexbert@") for row in scores)
    assert "this is CheXbert F1" in done.stderr


def test_data_check_fails_on_leakage(tmp_path):
    kdistill("phantom", "render", "--out", str(tmp_path / "d"), "--num", "6", "--seed", "9400", "--size-px", "64")
    table = tmp_path / "d" / "studies.csv"
    good = kdistill("data", "check", str(tmp_path / "d"), "--json")
    assert json.loads(good.stdout)["counts"]["studies"] == 6
    lines = table.read_text().splitlines()
    header = lines[0].split(",")
    split, image = header.index("split"), header.index("image_path")
    import csv

    rows = list(csv.reader(lines))
    rows[1][split], rows[2][split] = "train", "test"
    rows[2][image] = rows[1][image]
    with table.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    done = kdistill("data", "check", str(tmp_path / "d"), check=3)
    assert "equal pixels" in done.stderr


def test_terminal_never_shows_control_characters_raw():
    from kdistill.cli.terminal import clean

    assert clean("a\x1b[31mb\u202ec\x00") == "a\\u001b[31mb\\u202ec\\u0000"
