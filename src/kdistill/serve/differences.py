"""Where two explanations of the same image differ: what only one states, sides of thresholds, sides of the body."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, Literal

from kdistill.explain.explanation import Explanation, ObservationReading
from kdistill.observations import OBSERVATIONS
from kdistill.records import Record, Side

DifferenceKind = Literal["stated", "threshold", "side"]
_PLACES: Final = ("report", "rationale")


class Difference(Record):
    """One difference, in words that name the two only as A and B.

    Attributes:
        observation: Which of the 14.
        kind: "stated": only one states it, as present or possible, in report or rationale; "threshold": the
            probabilities lie on different sides of their thresholds; "side": they name different sides of the body.
        only: Who states it ("stated"), or lies above its threshold ("threshold"); None for "side".
        text: It as a sentence.
    """

    observation: str
    kind: DifferenceKind
    only: Literal["a", "b"] | None = None
    text: str


def differences(a: Explanation, b: Explanation) -> tuple[Difference, ...]:
    """Every difference, in the order of the observations; none where one of them abstained and so says nothing.

    Args:
        a: One explanation.
        b: Another one of the same image.
    """
    if a.abstained or b.abstained:
        return ()
    said_a, said_b = stated(a), stated(b)
    found: list[Difference] = []
    for name, read_a, read_b in zip(OBSERVATIONS, a.observations, b.observations, strict=True):
        found += _stated(name, said_a.get(name, ()), said_b.get(name, ()))
        found += _threshold(read_a, read_b)
        found += _side(name, _side_of(a, read_a), _side_of(b, read_b))
    return tuple(found)


def stated(explanation: Explanation) -> dict[str, tuple[str, ...]]:
    """Observations that an explanation states as present or possible -> where: "report", "rationale"."""
    report = [m.observation for s in explanation.report_sentences for m in s.mentions if m.state != "absent"]
    reasons = [s.observation for s in explanation.rationale if s.observation and s.state in ("present", "uncertain")]
    said = dict(zip(_PLACES, (set(report), set(reasons)), strict=True))
    return {name: places for name in OBSERVATIONS if (places := tuple(p for p in _PLACES if name in said[p]))}


def _stated(name: str, by_a: Sequence[str], by_b: Sequence[str]) -> Iterator[Difference]:
    if bool(by_a) == bool(by_b):
        return
    only: Literal["a", "b"] = "a" if by_a else "b"
    where = " and ".join(by_a or by_b)
    yield Difference(observation=name, kind="stated", only=only, text=f"Only {only.upper()} states it ({where}).")


def _threshold(a: ObservationReading, b: ObservationReading) -> Iterator[Difference]:
    if a.probability is None or a.threshold is None or b.probability is None or b.threshold is None:
        return
    above_a, above_b = a.probability > a.threshold, b.probability > b.threshold
    if above_a == above_b:
        return
    high, low = (a, b) if above_a else (b, a)
    only: Literal["a", "b"] = "a" if above_a else "b"
    names = ("A", "B") if above_a else ("B", "A")
    text = f"{names[0]} is above its threshold ({_numbers(high)}), {names[1]} below ({_numbers(low)})."
    yield Difference(observation=a.name, kind="threshold", only=only, text=text)


def _numbers(reading: ObservationReading) -> str:
    """Enough digits to show on which side the probability lies."""
    assert reading.probability is not None and reading.threshold is not None
    digits = next((n for n in range(2, 6) if f"{reading.probability:.{n}f}" != f"{reading.threshold:.{n}f}"), 6)
    return f"{reading.probability:.{digits}f} against {reading.threshold:.{digits}f}"


def _side_of(explanation: Explanation, reading: ObservationReading) -> Side | None:
    """The side that is shown of a finding, or else the first one that is written."""
    if reading.state != "absent" and reading.side is not None:
        return reading.side
    written = [
        m.side
        for s in explanation.report_sentences
        for m in s.mentions
        if m.observation == reading.name and m.state != "absent"
    ] + [s.side for s in explanation.rationale if s.observation == reading.name and s.state in ("present", "uncertain")]
    return next((side for side in written if side is not None), None)


def _side(name: str, a: Side | None, b: Side | None) -> Iterator[Difference]:
    if a is not None and b is not None and a != b:
        yield Difference(observation=name, kind="side", text=f"A says {a}, B says {b}.")
