"""Plans for the tests of the phantom's texts: every variant in every place that its knowledge allows."""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np

from kdistill.records import Severity
from kdistill.studies.phantom.knowledge import load_knowledge
from kdistill.studies.phantom.plan import VARIANTS, FindingPlan, StudyPlan
from kdistill.studies.phantom.wording import bare

SEVERITIES: tuple[Severity, ...] = ("mild", "moderate", "severe")


def five_grams(template: str) -> set[str]:
    """Runs of five words without a slot."""
    words = re.findall(r"\{\w+\}|[\w.]+", bare(template).lower())
    runs = (words[i : i + 5] for i in range(len(words) - 4))
    return {" ".join(run) for run in runs if not any("{" in word for word in run)}


def finding_plans() -> Iterator[FindingPlan]:
    for observation, names in VARIANTS.items():
        for name in names:
            variant = load_knowledge().findings[observation].variants[name]
            for side in variant.sides or (None,):
                for zone in variant.zones or (None,):
                    for severity in SEVERITIES:
                        yield FindingPlan(observation, name, severity, 0, side, zone)


def study(*findings: FindingPlan, number: int = 0) -> StudyPlan:
    return StudyPlan(f"s{number}", f"p{number}", number, "F", 60.0, "PA", tuple(findings))


def random_studies(count: int, seed: int = 0) -> list[StudyPlan]:
    """Studies with no, one or several findings, each observation at most once."""
    rng = np.random.default_rng(seed)
    plans = list(finding_plans())
    studies = []
    for number in range(count):
        chosen: dict[str, FindingPlan] = {}
        for index in rng.integers(len(plans), size=int(rng.integers(0, 4))):
            chosen.setdefault(plans[index].observation, plans[index])
        studies.append(study(*chosen.values(), number=number))
    return studies
