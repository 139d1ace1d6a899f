"""Small hand-made material: a library of one article, a reader that says what it is told to say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache

import numpy as np
import pytest

from kdistill.explain.build import ExplanationContext
from kdistill.explain.citations import CitationLookup
from kdistill.explain.config import ExplainConfig
from kdistill.explain.reading import Reading
from kdistill.labelers.rules import RuleLabeler
from kdistill.observations import INDEX, NUM_OBSERVATIONS
from kdistill.records import Article, Citation
from kdistill.studies.phantom.plan import StudyPlan
from kdistill.studies.phantom.render import render_uint8

QUOTE = "Blunting of the lateral costophrenic angle is the earliest sign of pleural fluid on an upright film."
RETRACTED_QUOTE = "Fluid always rises to the apex of the chest in these patients."


def make_library(config: ExplainConfig | None = None) -> CitationLookup:
    articles = {
        "PMC1": Article(id="PMC1", title="Signs of pleural fluid", text=QUOTE, year=2014, pmid="24"),
        "PMC2": Article(id="PMC2", title="Withdrawn", text=RETRACTED_QUOTE, retracted=True),
    }
    quotes = [
        ("Pleural Effusion", Citation(article_id="PMC1", pmid="24", quote=QUOTE)),
        ("Pleural Effusion", Citation(article_id="PMC2", quote=RETRACTED_QUOTE)),
        ("Edema", Citation(article_id="PMC9", quote="An article that is in no library says this about edema.")),
    ]
    return CitationLookup(quotes, articles, config or ExplainConfig())


@pytest.fixture(scope="session")
def library() -> CitationLookup:
    return make_library()


@pytest.fixture(scope="session")
def context(library: CitationLookup) -> ExplanationContext:
    return ExplanationContext("full, seed 0 (abc)", (0.5,) * NUM_OBSERVATIONS, library, RuleLabeler(), ExplainConfig())


@cache
def radiograph(size_px: int = 64, seed: int = 0) -> np.ndarray:
    """A healthy phantom chest: anything else is refused."""
    plan = StudyPlan(f"s{seed}", f"p{seed}", seed, "F", 60.0, "PA", ())
    image = render_uint8(plan, size_px)[0]
    image.setflags(write=False)
    return image


def make_reading(
    probabilities: dict[str, float] | None = None,
    sides: dict[str, str] | None = None,
    findings: str = "",
    impression: str = "",
    rationale: str = "",
) -> Reading:
    values = np.full(NUM_OBSERVATIONS, 0.05)
    for name, value in (probabilities or {}).items():
        values[INDEX[name]] = value
    named: list[object] = [None] * NUM_OBSERVATIONS
    for name, side in (sides or {}).items():
        named[INDEX[name]] = side
    maps = np.full((NUM_OBSERVATIONS, 8, 8), 1 / 64, dtype=np.float32)
    return Reading(values, tuple(named), maps, findings, impression, rationale)  # type: ignore[arg-type]


@dataclass
class FixedReader:
    """Gives the same reading for every image, and counts how often it is asked."""

    reading: Reading
    name: str = "full, seed 0 (abc)"
    size_px: int = 64
    thresholds: tuple[float, ...] | None = (0.5,) * NUM_OBSERVATIONS
    asked: list[int] = field(default_factory=list)

    def read(self, images: np.ndarray) -> Sequence[Reading]:
        self.asked.append(len(images))
        return [self.reading] * len(images)
