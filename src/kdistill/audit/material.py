"""What the audit reads: what each student said about test studies and counterfactual pairs, already labelled.

Axes: N images, L = 14 observations.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
from numpy.typing import NDArray

from kdistill.errors import InputError
from kdistill.evaluation.targets import BLANK, state_matrix
from kdistill.explain.text_checks import stated_sides
from kdistill.labelers.rules import RuleLabeler
from kdistill.observations import INDEX, NUM_OBSERVATIONS, OBSERVATIONS, Labels
from kdistill.records import CounterfactualPair, Side, Study, Truth
from kdistill.student.thresholds import load_thresholds
from kdistill.studies.store import load_pairs, load_studies, load_truth

PREDICTIONS: Final = "predictions.parquet"
PAIR_PREDICTIONS: Final = "pair_predictions.parquet"
#: Texts in which a statement is looked for.
SLOTS: Final = ("report", "rationale")
ALL_SLOTS: Final = (*SLOTS, "head")
FINDING_COLUMNS: Final = np.arange(1, NUM_OBSERVATIONS)


class TextReader:
    """Reads labels and sides from generated texts, each distinct text once."""

    def __init__(self, labeler: RuleLabeler | None = None) -> None:
        self.labeler = labeler or RuleLabeler()
        self.label: Callable[[str], Labels] = cache(self.labeler.label)
        self.sides: Callable[[str], dict[str, Side]] = cache(lambda text: stated_sides(text, self.labeler))

    def states(self, texts: Sequence[str]) -> NDArray[np.int8]:
        """Label states int8 [N, L] (1, 0, -1, BLANK), as `evaluation.targets` codes them."""
        if not texts:
            return np.full((0, NUM_OBSERVATIONS), BLANK, dtype=np.int8)
        return state_matrix([self.label(text) for text in texts])


@dataclass(frozen=True)
class Said:
    """What one student said about N images, in a fixed order.

    `states` and `texts` by slot ("report", "rationale"); a slot that the student does not write is absent. Head fields
    are None for a student without a trained label head. `present` is probability >= threshold.
    """

    texts: Mapping[str, tuple[str, ...]]
    states: Mapping[str, NDArray[np.int8]]
    probabilities: NDArray[np.float64] | None
    present: NDArray[np.bool_] | None
    head_sides: tuple[tuple[str | None, ...], ...] | None

    def stated(self, slot: str) -> NDArray[np.bool_]:
        """Whether each observation is stated, uncertain counted as stated (U+): bool [N, L]."""
        return np.isin(self.states[slot], (1, -1))

    def positive(self, slot: str) -> NDArray[np.bool_] | None:
        """`stated` for a text slot, `present` for "head"; None where the student has no such slot."""
        if slot == "head":
            return self.present
        return self.stated(slot) if slot in self.states else None


@dataclass(frozen=True)
class PairSaid:
    """What one student said about the two images of each pair, in the order of pairs.jsonl."""

    before: Said
    after: Said


@dataclass(frozen=True)
class Cases:
    """The studies and pairs that are audited, with what is known about them."""

    studies: tuple[Study, ...]
    truth: Mapping[str, Truth]
    pairs: tuple[CounterfactualPair, ...]

    @property
    def patient_ids(self) -> list[str]:
        """Patients of studies and pairs."""
        return [s.patient_id for s in self.studies] + [p.patient_id for p in self.pairs]

    def truth_matrix(self) -> NDArray[np.bool_] | None:
        """Ground truth of the test studies, bool [N, L]; None where not every study has it for all observations.

        What is not known is no absence.
        """
        known = [self.truth[s.study_id].truth for s in self.studies if s.study_id in self.truth]
        if not known or len(known) < len(self.studies) or any(o not in truth for truth in known for o in OBSERVATIONS):
            return None
        return np.array([[bool(truth[o]) for o in OBSERVATIONS] for truth in known])


def load_cases(studies_dir: Path) -> Cases:
    """Test studies, their truth, and the counterfactual pairs."""
    truth = load_truth(studies_dir) or {}
    return Cases(tuple(load_studies(studies_dir, "test")), truth, tuple(load_pairs(studies_dir)))


def read_parquet(path: Path) -> list[dict[str, Any]]:
    """All rows of a parquet file.

    Raises:
        InputError: The file is missing or damaged.
    """
    import pyarrow
    import pyarrow.parquet

    try:
        rows: list[dict[str, Any]] = pyarrow.parquet.read_table(path).to_pylist()
    except (OSError, pyarrow.ArrowException) as error:
        where = "/".join(path.parts[-3:])
        raise InputError(
            f"cannot be read ({type(error).__name__})", where=where, remedy="Run the student stage again."
        ) from error
    return rows


def said_of(rows: Sequence[Mapping[str, Any]], thresholds: Sequence[float] | None, reader: TextReader) -> Said:
    """Label the texts of rows (of predictions.parquet or pair_predictions.parquet) in their order."""
    reports = tuple("\n".join(t for t in (row["findings"], row["impression"]) if t) for row in rows)
    texts = {"report": reports, "rationale": tuple(row["rationale"] or "" for row in rows)}
    texts = {slot: found for slot, found in texts.items() if any(t.strip() for t in found)}
    states = {slot: reader.states(found) for slot, found in texts.items()}
    values = [row["probabilities"] for row in rows]
    if thresholds is None or not values or any(v is None for v in values):
        return Said(texts, states, None, None, None)
    probabilities = np.asarray(values, dtype=np.float64)
    sides = [row["sides"] for row in rows]
    head_sides = None if any(s is None for s in sides) else tuple(tuple(s) for s in sides)
    return Said(texts, states, probabilities, probabilities >= np.asarray(thresholds), head_sides)


def named_sides(said: Said, slot: str, row: int, reader: TextReader) -> Mapping[str, Side]:
    """Observation -> side that the slot names for one image; the head names one for what it calls present."""
    if slot != "head":
        return reader.sides(said.texts[slot][row])
    assert said.head_sides is not None and said.present is not None
    found = zip(OBSERVATIONS, said.head_sides[row], said.present[row], strict=True)
    return {name: cast(Side, side) for name, side, present in found if present and side}


def load_said(student_dir: Path, study_ids: Sequence[str], reader: TextReader) -> Said:
    """What a student said about studies, in the given order.

    Raises:
        InputError: A study is missing from its predictions.
    """
    by_id = {row["study_id"]: row for row in read_parquet(student_dir / PREDICTIONS)}
    missing = [name for name in study_ids if name not in by_id]
    if missing:
        raise InputError(f"{len(missing)} of {len(study_ids)} studies are missing", where=str(student_dir.name))
    return said_of([by_id[name] for name in study_ids], thresholds_of(student_dir), reader)


def load_pair_said(student_dir: Path, pairs: Sequence[CounterfactualPair], reader: TextReader) -> PairSaid | None:
    """What a student said about the pairs; None where it was not asked (no file, or not all pairs in it)."""
    path = student_dir / PAIR_PREDICTIONS
    if not pairs or not path.is_file():
        return None
    rows = {(row["pair_id"], row["which"]): row for row in read_parquet(path)}
    if any((pair.pair_id, which) not in rows for pair in pairs for which in ("before", "after")):
        return None
    thresholds = thresholds_of(student_dir)
    before, after = (
        said_of([rows[pair.pair_id, which] for pair in pairs], thresholds, reader) for which in ("before", "after")
    )
    return PairSaid(before, after)


def thresholds_of(student_dir: Path) -> tuple[float, ...] | None:
    """The thresholds of a student's label head; None without one."""
    found = load_thresholds(student_dir / "model")
    return found.values if found else None


def targets_of(pairs: Sequence[CounterfactualPair]) -> NDArray[np.intp]:
    """Column of each pair's observation."""
    return np.asarray([INDEX[pair.observation] for pair in pairs], dtype=np.intp)


def unchanged_truth(pairs: Sequence[CounterfactualPair]) -> NDArray[np.bool_]:
    """Which findings a pair leaves as they are: bool [N, L]; never the pair's own, nor "No Finding"."""
    same = np.array([[p.before_truth.get(o, 0) == p.after_truth.get(o, 0) for o in OBSERVATIONS] for p in pairs], bool)
    same = same.reshape(len(pairs), NUM_OBSERVATIONS)
    same[:, 0] = False
    same[np.arange(len(pairs)), targets_of(pairs)] = False
    return same
