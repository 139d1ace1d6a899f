"""Untrained references, made from the student of another arm with the same seed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from kdistill.distillation.predict import ImageOutput, side_names
from kdistill.observations import NO_FINDING, NUM_OBSERVATIONS, OBSERVATIONS
from kdistill.records import Side, Study
from kdistill.teacher.statements import statement


def nearest_reports(queries: ImageOutput, candidates: ImageOutput, studies: Sequence[Study]) -> list[dict[str, Any]]:
    """The report of the training study whose image lies nearest.

    Nearness is the cosine between the concatenated observation embeddings.

    Args:
        queries: N images to describe.
        candidates: The training images, in the order of `studies`.
        studies: Training studies that have a report.
    """
    nearest = (_unit(queries.embeddings) @ _unit(candidates.embeddings).T).argmax(axis=1)
    return [
        {
            "probabilities": None,
            "sides": None,
            "findings": studies[n].findings,
            "impression": studies[n].impression,
            "rationale": "",
        }
        for n in nearest.tolist()
    ]


def _unit(embeddings: np.ndarray) -> np.ndarray:
    flat = embeddings.reshape(len(embeddings), -1)
    return flat / np.linalg.norm(flat, axis=1, keepdims=True)


def template_reports(seen: ImageOutput, thresholds: Sequence[float]) -> list[dict[str, Any]]:
    """The label head's findings in template sentences: what lies at or above its threshold, with the head's side."""
    named = [None] * len(seen.probabilities) if seen.sides is None else [side_names(sides) for sides in seen.sides]
    return [
        {
            "probabilities": probabilities.tolist(),
            "sides": sides,
            "findings": template_findings(probabilities, sides or [""] * NUM_OBSERVATIONS, thresholds),
            "impression": "",
            "rationale": "",
        }
        for probabilities, sides in zip(seen.probabilities, named, strict=True)
    ]


def template_findings(probabilities: np.ndarray, sides: Sequence[str], thresholds: Sequence[float]) -> str:
    """Statements of the observations found; "No Finding" where nothing else is."""
    found = [
        (name, side)
        for name, probability, side, threshold in zip(OBSERVATIONS, probabilities, sides, thresholds, strict=True)
        if probability >= threshold and name != NO_FINDING
    ]
    sentences = [statement(name, "present", _side(side)) for name, side in found]
    return " ".join(f"{sentence}." for sentence in sentences or [statement(NO_FINDING, "present")])


def _side(name: str) -> Side | None:
    match name:
        case "left" | "right" | "bilateral":
            return name  # type: ignore[return-value]
    return None
