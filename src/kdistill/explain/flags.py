"""What speaks against an explanation: contradictions inside it, missing citations, signs of a stuck generator."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from kdistill.explain.contradictions import (
    Contradiction,
    cross_contradictions,
    own_contradictions,
    rationale_assertions,
    report_assertions,
    two_degrees,
)
from kdistill.explain.explanation import Flag, ObservationReading, RationaleSentence
from kdistill.explain.reading import Reading
from kdistill.explain.text_checks import is_degenerate, mentions_prior, stated_sides
from kdistill.labelers.rules import RuleLabeler
from kdistill.observations import NO_FINDING


def rationale_flags(
    rationale: Sequence[RationaleSentence], observations: Sequence[ObservationReading]
) -> Iterator[Flag]:
    """Compare each sentence with its observation's probability and side, and say where no source was found."""
    by_name = {reading.name: reading for reading in observations}
    for sentence in rationale:
        if sentence.observation is None:
            yield Flag(
                code="unassigned_sentence",
                text=f"This sentence belongs to no observation, so no evidence map stands behind it: {sentence.text}",
            )
        elif sentence.statement:
            yield from _statement_flags(sentence, by_name[sentence.observation])
        if not sentence.statement and not sentence.citations:
            yield Flag(
                code="uncited",
                observation=sentence.observation,
                text=f"No article in the library says this in these words: {sentence.text}",
            )


def _statement_flags(sentence: RationaleSentence, reading: ObservationReading) -> Iterator[Flag]:
    opposite = {("present", "absent"), ("absent", "present")}
    if reading.probability is not None and (sentence.state, reading.state) in opposite:
        yield Flag(
            code="rationale_contradicts_probability",
            observation=reading.name,
            text=f"The rationale says “{sentence.text}”, but the probability of {reading.name} is "
            f"{reading.probability:.2f} at a threshold of {reading.threshold:.2f}.",
        )
    if sentence.side and reading.side and sentence.side != reading.side and sentence.state != "absent":
        yield Flag(
            code="side_mismatch",
            observation=reading.name,
            text=f"The rationale says {sentence.side}, the classifier says {reading.side}.",
        )


def report_flags(reading: Reading, observations: Sequence[ObservationReading], labeler: RuleLabeler) -> Iterator[Flag]:
    """Compare the generated report with the probabilities and sides of the label head."""
    labels = labeler.label(reading.report)
    sides = stated_sides(reading.report, labeler)
    for item in observations:
        if item.probability is None or item.name == NO_FINDING:
            continue
        stated = labels.get(item.name)
        if item.state == "absent" and stated == 1:
            yield _report_flag(item, "The report states it")
        elif item.state == "present" and stated == 0:
            yield _report_flag(item, "The report denies it")
        elif item.state == "present" and stated is None:
            yield _report_flag(item, "The report does not mention it")
        side = sides.get(item.name)
        if item.state == "present" and side and item.side and side != item.side:
            yield Flag(
                code="side_mismatch",
                observation=item.name,
                text=f"The report says {side}, the classifier says {item.side}.",
            )


def _report_flag(item: ObservationReading, what: str) -> Flag:
    return Flag(
        code="report_contradicts_probability",
        observation=item.name,
        text=f"{what}, but the probability of {item.name} is {item.probability:.2f} at a threshold of "
        f"{item.threshold:.2f}.",
    )


def contradiction_flags(reading: Reading, labeler: RuleLabeler) -> Iterator[Flag]:
    """A finding that is stated and denied: by the report, by the rationale, or by one against the other.

    And one that report or rationale states in two degrees.
    """
    report = report_assertions(reading.report, labeler)
    rationale = rationale_assertions(reading.rationale, labeler)
    for found in own_contradictions(report):
        yield _contradiction("The report contradicts itself", found)
    for found in own_contradictions(rationale):
        yield _contradiction("The rationale contradicts itself", found)
    for found in cross_contradictions(report, rationale):
        yield _contradiction("Report and rationale contradict each other", found)
    for name, said in (("report", report), ("rationale", rationale)):
        for pair in two_degrees(said):
            yield Flag(
                code="severity_mismatch",
                observation=pair.observation,
                text=f"The {name} gives it two degrees: “{pair.one}” and “{pair.other}”",
                sentences=(pair.one, pair.other),
            )


def _contradiction(what: str, found: Contradiction) -> Flag:
    return Flag(
        code="contradiction",
        observation=found.observation,
        text=f"{what}: “{found.stated}” against “{found.denied}”",
        sentences=(found.stated, found.denied),
    )


def text_flags(reading: Reading, *, has_prior: bool) -> Iterator[Flag]:
    """Repetition, and comparison with a study that the model was not given."""
    for part, text in (("report", reading.report), ("rationale", reading.rationale)):
        if is_degenerate(text):
            yield Flag(code="degenerate", text=f"The {part} repeats itself: the generator was stuck.")
        words = mentions_prior(text)
        if words and not has_prior:
            yield Flag(
                code="prior_mentioned",
                text=f"The {part} compares with an earlier study (“{words}”), but the model was given none.",
            )
