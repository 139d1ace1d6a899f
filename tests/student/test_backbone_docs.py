"""docs/backbones.md: every YAML line is a recipe's, and the table names what the tests run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from kdistill.config import parse_yaml, validate
from kdistill.distillation.config import DistillationConfig
from kdistill.student.config import StudentConfig

from .backbones import EYES, TONGUES

TEXT = (Path(__file__).parents[2] / "docs" / "backbones.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"```yaml\n(.*?)```", TEXT, flags=re.S)


@pytest.mark.parametrize("snippet", SNIPPETS)
def test_snippets_are_valid_sections_of_a_recipe(snippet: str) -> None:
    sections = parse_yaml(snippet, where="docs/backbones.md")
    assert set(sections) <= {"student", "distillation"}
    student = validate(StudentConfig, sections["student"], where="student")
    assert student != StudentConfig(), "it names a backbone"
    validate(DistillationConfig, sections.get("distillation", {}), where="distillation")


def test_the_table_names_what_is_run() -> None:
    types = {eye.config.model_type for eye in EYES.values()} | {kind.model_type for kind, *_ in TONGUES.values()}
    assert [name for name in sorted(types) if f"`{name}`" not in TEXT] == []
    assert len(SNIPPETS) > len(EYES)
