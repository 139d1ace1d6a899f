"""The unit of docs/hospital.md: systemd reads it without a complaint, and our command line reads its ExecStart."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from typer.testing import CliRunner

from kdistill.cli.main import app
from kdistill.errors import InputError

from .test_tls import Certificates, certificates

__all__ = ["certificates"]
PAGE = Path(__file__).parents[2] / "docs" / "hospital.md"
PROGRAM = "/opt/kdistill/bin/kdistill"


def unit() -> str:
    (found,) = re.findall(r"^(    \[Unit\]\n(?:(?:    .*)?\n)+)", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return textwrap.dedent(found)


def commands() -> list[str]:
    return re.findall(rf"ExecStart={PROGRAM} (.*)", PAGE.read_text(encoding="utf-8"))


def test_systemd_reads_the_unit(tmp_path: Path) -> None:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd-analyze is not installed")
    with_tls = re.sub(
        "ExecStart=.*", lambda _: f"LoadCredential=key.pem:/etc/key.pem\nExecStart={PROGRAM} {commands()[1]}", unit()
    )
    for number, text in enumerate((unit(), with_tls)):
        assert PROGRAM in text
        file = tmp_path / f"kdistill-{number}.service"
        file.write_text(text.replace(PROGRAM, sys.executable))  # systemd looks whether there is such a program
        done = subprocess.run([program, "verify", str(file)], capture_output=True, text=True, timeout=120)
        assert (done.returncode, done.stdout + done.stderr) == (0, "")
    broken = tmp_path / "broken.service"
    broken.write_text(unit().replace(PROGRAM, sys.executable).replace("StateDirectory=", "StateDirektory="))
    done = subprocess.run([program, "verify", str(broken)], capture_output=True, text=True, timeout=120)
    assert "StateDirektory" in done.stderr


def test_the_command_line_reads_every_command_of_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    lines = re.findall(r"^    kdistill (dicom .*)", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert len(lines) >= 5 and any("--commit" in line for line in lines)
    for line in lines:
        done = CliRunner().invoke(app, shlex.split(line))
        assert isinstance(done.exception, InputError), (line, done.exception)  # there is no such run or file here
    assert CliRunner().invoke(app, ["dicom", "send", "x", "--comit"]).exit_code == 2


def test_the_command_line_reads_each_exec_start(certificates: Certificates) -> None:
    plain, with_tls = (shlex.split(line) for line in commands())
    own = certificates.of("receiver")
    files = {
        "/etc/kdistill/cert.pem": str(own.cert),
        "${CREDENTIALS_DIRECTORY}/key.pem": str(own.key),
        "/etc/kdistill/ca.pem": str(own.ca),
    }
    assert set(files) <= set(with_tls)
    for words in (plain, [files.get(word, word) for word in with_tls]):
        done = CliRunner().invoke(app, words)
        assert done.exit_code != 0 and "there is no such folder" in str(
            done.exception
        )  # options and files are all right
    unknown = CliRunner().invoke(app, [*plain, "--tls-certificate", "x"])
    assert unknown.exit_code == 2 and "there is no such folder" not in str(unknown.exception)
