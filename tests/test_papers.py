"""PAPERS.md names code that exists, has a row for every term of the objective, and lists every paper that is cited."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

from kdistill.distillation.config import TermWeights

ROOT = Path(__file__).parents[1]
PLACE = re.compile(r"`([\w/]+\.py)(?::([\w.]+))?`")
CITED = re.compile(r"(?:arXiv:\s?|et al\.,? \d{4}, )(\d{4}\.\d{4,5}|[a-z-]+/\d{7})")
#: Cited, and no part of the system.
ELSEWHERE = {"1909.06146": "PubMedQA, a source of articles that docs/literature.md asks its users to cite"}


class Row(NamedTuple):
    what: str
    paper: str
    there: str
    here: str


@cache
def rows() -> tuple[Row, ...]:
    lines = (ROOT / "PAPERS.md").read_text(encoding="utf-8").splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    return tuple(Row(*found) for found in cells[2:])


@cache
def names_in(path: Path) -> frozenset[str]:
    """Functions, classes, their methods, and constants of a module."""
    found: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        match node:
            case ast.FunctionDef():
                found.add(node.name)
            case ast.ClassDef():
                methods = [f"{node.name}.{part.name}" for part in node.body if isinstance(part, ast.FunctionDef)]
                found.update([node.name, *methods])
            case ast.Assign():
                found.update(target.id for target in node.targets if isinstance(target, ast.Name))
            case ast.AnnAssign(target=ast.Name() as target):
                found.add(target.id)
    return frozenset(found)


def exists(place: str, name: str) -> bool:
    path = ROOT / place if place.startswith("benchmarks/") else ROOT / "src" / "kdistill" / place
    return path.is_file() and (not name or name in names_in(path))


def cited_by(text: str) -> set[str]:
    return set(CITED.findall(" ".join(text.split())))


def test_every_row_names_code_that_exists() -> None:
    for row in rows():
        places = PLACE.findall(row.here)
        # Nothing in backticks is left over that could not be looked up.
        assert len(places) == row.here.count("`") // 2, row.what
        assert places or row.here == "the whole package", row.what
        assert [f"{place}:{name}" for place, name in places if not exists(place, name)] == [], row.what


@pytest.mark.parametrize("term", TermWeights.model_fields)
def test_every_term_of_the_objective_has_a_paper_or_is_ours(term: str) -> None:
    found = [row for row in rows() if row.what.startswith(f"`{term}` term")]
    assert found and all(row.paper and ":" in row.here for row in found)


def test_every_cited_paper_is_listed() -> None:
    listed = cited_by((ROOT / "PAPERS.md").read_text(encoding="utf-8"))
    places = [*(ROOT / "src").rglob("*.py"), *(ROOT / "benchmarks").glob("*.py"), *(ROOT / "docs").glob("*.md")]
    cited = {number: path.name for path in places for number in cited_by(path.read_text(encoding="utf-8"))}
    assert len(cited) > 40
    missing = {number: place for number, place in cited.items() if number not in listed | ELSEWHERE.keys()}
    assert missing == {}
    assert ELSEWHERE.keys() <= cited.keys(), "an exception that nothing cites any more"


def test_what_is_missing_would_be_found() -> None:
    assert not exists("distillation/objective.py", "no_such_loss") and not exists("distillation/no_such.py", "")
    assert not exists("student/queries.py", "ObservationQueries.no_such")
    assert exists("distillation/objective.py", "side_loss") and exists("benchmarks/nih_boxes.py", "table")
    assert cited_by("(Hinton et al. 2015, 1503.02531); Yeh 2000, arXiv:cs/0008005; doi:10.1109/CVPR.1993.341081") == {
        "1503.02531",
        "cs/0008005",
    }
