"""Anybody's files: what is read, and that every problem names its line."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from kdistill.errors import InputError
from kdistill.labelers.reports_io import read_reports

READABLE = [
    ("a.csv", b"id,report\n7,No effusion.\n8,Edema.\n", [("7", "No effusion."), ("8", "Edema.")]),
    ("a.csv", b"report\nNo effusion.\n", [("1", "No effusion.")]),
    ("a.csv", b'\xef\xbb\xbfstudy_id,report\r\ns1,"Two,\r\nlines"\r\n', [("s1", "Two,\r\nlines")]),
    ("a.csv", b"report,id\n\n,x\n", [("x", "")]),
    ("a.tsv", b"id\treport\n1\ta, b\n", [("1", "a, b")]),
    ("a.jsonl", b'{"id": 3, "report": "Clear."}\n\n{"report": null}\n', [("3", "Clear."), ("2", "")]),
    ("a.jsonl", b'\xef\xbb\xbf{"report": "x"}\r\n', [("1", "x")]),
    ("a.txt", b"Clear.\r\n\r\nEdema.", [("1", "Clear."), ("3", "Edema.")]),
    ("a.csv", "id,report\n1,Größe é\n".encode(), [("1", "Größe é")]),
]
BROKEN = [
    ("a.csv", b"id,text\n1,x\n", ["no column 'report'", "line 1", "id, text"]),
    ("a.csv", b"", ["is empty"]),
    ("a.csv", b"id,report\n1,a,b\n2,c\n3\n", ["line 2: 3 fields", "line 4: 1 fields"]),
    ("a.csv", b'id,report\n1,"open\n', ["no valid CSV"]),
    ("a.csv", b"id,report\n1,\xff\n", ["line 2", "UTF-8"]),
    ("a.jsonl", b'{"report": "x"}\nnot json\n[1]\n{"a": 1}\n{"report": 5}\n',
     ["line 2:", "line 3: is no JSON object", "line 4: no key 'report'; it has a", "line 5: 'report' is no text"]),
    ("a.xml", b"<a/>", ["unknown kind of file '.xml'"]),
]  # fmt: skip


def write(folder: Path, name: str, data: bytes) -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(("name", "data", "reports"), READABLE)
def test_reads(tmp_path: Path, name: str, data: bytes, reports: list[tuple[str, str]]) -> None:
    assert list(read_reports(write(tmp_path, name, data))) == reports


@pytest.mark.parametrize(("name", "data", "messages"), BROKEN)
def test_refuses_with_line_numbers(tmp_path: Path, name: str, data: bytes, messages: list[str]) -> None:
    with pytest.raises(InputError) as error:
        read_reports(write(tmp_path, name, data))
    assert error.value.exit_code == 2
    for message in messages:
        assert message in str(error.value)
    assert str(tmp_path) not in str(error.value)


def test_at_most_50_problems_are_listed(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", b"id,report\n" + b"1\n" * 70)
    with pytest.raises(InputError, match="and 20 more"):
        read_reports(path)


def test_another_column(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", b"id,impression\n1,Edema.\n")
    assert list(read_reports(path, "impression")) == [("1", "Edema.")]


def test_a_long_field_is_read(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", b"report\n" + b"a" * 300_000 + b"\n")
    assert len(next(read_reports(path))[1]) == 300_000


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone\.csv: cannot be read"):
        read_reports(tmp_path / "gone.csv")


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"Clear.\nEdema.\n")))
    assert list(read_reports("-")) == [("1", "Clear."), ("2", "Edema.")]
