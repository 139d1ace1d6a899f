"""docs/faults.md names for each of the 42 faults the tests that prove what happens; they exist."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
TABLE = (ROOT / "docs" / "faults.md").read_text(encoding="utf-8")
ROW = re.compile(r"^\| (\d+) \| [^|]+ \| [^|]+ \| ([^|]+) \|$", re.MULTILINE)
TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
#: Rows without a test, by number. A row that leaves this set never comes back.
GAPS: frozenset[int] = frozenset()


@cache
def names_in(path: str) -> frozenset[str]:
    """The test functions that a file defines, found without running it."""
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))


def test_every_row_is_there_once_and_in_order() -> None:
    assert [int(row[1]) for row in ROW.finditer(TABLE)] == list(range(1, 43))


def test_every_row_names_a_test_or_is_a_known_gap() -> None:
    assert {int(row[1]) for row in ROW.finditer(TABLE) if not TEST.search(row[2])} == GAPS


def test_every_named_test_exists() -> None:
    named = [found.groups() for found in TEST.finditer(TABLE)]
    assert len(named) >= 42
    missing = [f"{path}::{name}" for path, name in named if not (ROOT / path).is_file() or name not in names_in(path)]
    assert missing == []


def test_every_test_of_the_server_that_has_a_row_in_its_name_is_in_that_row() -> None:
    listed = {row[1]: row[2] for row in ROW.finditer(TABLE)}
    paths = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "tests" / "serve").glob("test_faults_*.py"))
    numbered = [
        (found[1], f"{path}::{name}")
        for path in paths
        for name in names_in(path)
        if (found := re.match(r"test_(\d+)_", name))
    ]
    assert len(numbered) > 20 and len(paths) > 1
    assert [test for number, test in numbered if f"`{test}`" not in listed[number]] == []
