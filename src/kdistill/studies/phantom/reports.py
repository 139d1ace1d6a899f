"""Reports as radiologists dictate them: named, described, hedged or left out, with template normals in between."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeVar

import numpy as np

from kdistill.observations import PARENT
from kdistill.records import Severity
from kdistill.studies.phantom.knowledge import (
    Finding,
    Knowledge,
    NormalRegion,
    PhraseSet,
    Region,
    Variant,
    load_knowledge,
)
from kdistill.studies.phantom.plan import FindingPlan, StudyPlan
from kdistill.studies.phantom.report_config import NoiseConfig
from kdistill.studies.phantom.wording import Place, fill, fits, frame, sentence, telegraphic, tidy

Kind = Literal["named", "described", "ambiguous", "hedged", "omitted"]
DEFAULT_NOISE: Final = NoiseConfig()
#: The order in which a frontal film is usually read out.
READING_ORDER: Final[tuple[Region, ...]] = ("lungs", "pleura", "heart", "mediastinum", "bones", "devices")

T = TypeVar("T")


@dataclass(frozen=True)
class Told:
    """What the report says of one finding. `impression` is the line that the impression may repeat, if it is named."""

    observation: str
    region: Region
    kind: Kind
    sentences: tuple[str, ...] = ()
    impression: str | None = None


def write_report(plan: StudyPlan, phrase_set: PhraseSet, rng: np.random.Generator) -> tuple[str, str]:
    """Dictate the report of a study.

    Args:
        plan: What the study shows.
        phrase_set: "a" for training and validation; "b", the held-out wordings of signs and normals, for test.
        rng: Source of every choice made here.

    Returns:
        Findings and impression, 25 to 60 words together for most studies.
    """
    told = tell_findings(plan, phrase_set, rng)
    return compose(plan, told, phrase_set, rng)


def tell_findings(
    plan: StudyPlan, phrase_set: PhraseSet, rng: np.random.Generator, noise: NoiseConfig = DEFAULT_NOISE
) -> list[Told]:
    """Decide for each finding of the plan how it is told, and word it."""
    return [_tell(finding, phrase_set, rng, noise) for finding in plan.findings]


def compose(
    plan: StudyPlan,
    told: Sequence[Told],
    phrase_set: PhraseSet,
    rng: np.random.Generator,
    noise: NoiseConfig = DEFAULT_NOISE,
) -> tuple[str, str]:
    """Put told findings and normal regions in order, and close with an impression that adds nothing to them."""
    blocks = [(item.region, " ".join(item.sentences)) for item in told if item.sentences]
    blocks += _normal_blocks(plan, sum(len(text.split()) for _, text in blocks), phrase_set, rng, noise)
    if rng.random() < noise.shuffled_order:
        blocks = [blocks[index] for index in rng.permutation(len(blocks))]
    else:
        blocks.sort(key=lambda block: READING_ORDER.index(block[0]))
    return " ".join(text for _, text in blocks), _impression(told, rng, noise)


def _tell(plan: FindingPlan, phrase_set: PhraseSet, rng: np.random.Generator, noise: NoiseConfig) -> Told:
    knowledge = load_knowledge()
    finding = knowledge.findings[plan.observation]
    place = Place(
        side=plan.side,
        zone=plan.zone if rng.random() < noise.zone_said else None,
        severity=plan.severity if rng.random() < noise.severity_said else None,
    )
    kind = _draw_kind(plan.observation, knowledge, rng, noise)
    match kind:
        case "omitted":
            return Told(plan.observation, finding.region, kind)
        case "described" | "ambiguous":
            text = _described(plan, kind, place, phrase_set, rng, noise)
            return Told(plan.observation, finding.region, kind, (text,))
        case "named":
            noun = pick_usual(finding.variants[plan.variant].nouns, noise.mode_noun, rng)
            text = named_sentence(finding, plan.variant, noun, place, rng, noise)
            beside = rng.random() < noise.sign_beside_name
            sign = (_described(plan, "described", place, phrase_set, rng, noise),) if beside else ()
            line = sentence(entity(finding.variants[plan.variant], noun, place, article=False))
            return Told(plan.observation, finding.region, kind, (text, *sign), line)
        case "hedged":
            text = hedged_sentence(finding, plan.variant, place, rng)
            return Told(plan.observation, finding.region, kind, (text,), text)


def _draw_kind(observation: str, knowledge: Knowledge, rng: np.random.Generator, noise: NoiseConfig) -> Kind:
    shares = (noise.named, noise.described, noise.hedged, noise.omitted)
    kinds: tuple[Kind, ...] = ("named", "described", "hedged", "omitted")
    kind = kinds[int(rng.choice(len(kinds), p=np.array(shares) / sum(shares)))]
    vague = rng.random() < noise.ambiguous
    if kind == "described" and vague and any(observation in item.observations for item in knowledge.ambiguous):
        return "ambiguous"
    return kind


def _described(
    plan: FindingPlan, kind: Kind, place: Place, phrase_set: PhraseSet, rng: np.random.Generator, noise: NoiseConfig
) -> str:
    """A sign of the finding, or a wording that fits it and others, without its name."""
    knowledge = load_knowledge()
    if kind == "ambiguous":
        vague = [item for item in knowledge.ambiguous if plan.observation in item.observations]
        phrases = pick(vague, rng).phrases(phrase_set)
    else:
        signs = knowledge.findings[plan.observation].signs_of(plan.variant, plan.severity)
        usable = [sign for sign in signs if any(fits(text, place) for text in sign.phrases(phrase_set))]
        phrases = pick(usable, rng).phrases(phrase_set)
    template = pick([text for text in phrases if fits(text, place)], rng)
    return sign_line(template, place, rng, noise)


def sign_line(template: str, place: Place, rng: np.random.Generator, noise: NoiseConfig = DEFAULT_NOISE) -> str:
    """A wording as a line of a report, mostly without its article."""
    return sentence(fill(telegraphic(template) if rng.random() < noise.telegraphic else template, place))


def named_sentence(
    finding: Finding,
    variant: str,
    noun: str,
    place: Place,
    rng: np.random.Generator,
    noise: NoiseConfig = DEFAULT_NOISE,
) -> str:
    """A sentence that names the condition: "There is moderate left pulmonary edema."."""
    frames = finding.frames or load_knowledge().frames.named
    return _framed(pick_usual(frames, noise.mode_frame, rng), finding.variants[variant], noun, place)


def hedged_sentence(finding: Finding, variant: str, place: Place, rng: np.random.Generator) -> str:
    """A sentence that names the condition as possible."""
    known = finding.variants[variant]
    return _framed(pick(load_knowledge().frames.hedged, rng), known, known.nouns[0], place)


def denied_sentence(name: str, rng: np.random.Generator) -> str:
    """A sentence that denies the condition by name; the usual frame in most."""
    return frame(pick_usual(load_knowledge().frames.denied, 0.6, rng), bare=name)


def _framed(pattern: str, variant: Variant, noun: str, place: Place) -> str:
    if _plural(variant, place):
        pattern = pattern.replace("There is", "There are").replace(" is ", " are ")
    return frame(
        pattern,
        entity=entity(variant, noun, place, article=True),
        bare=entity(variant, noun, place, article=False),
    )


def _plural(variant: Variant, place: Place) -> bool:
    return variant.countable and place.side == "bilateral"


def entity(variant: Variant, noun: str, place: Place, *, article: bool) -> str:
    """The condition with what is known of it: "a small left pleural effusion", "pneumonia in the right upper zone"."""
    zone = place.zone if place.zone in variant.zones and "apical" not in noun else None
    plural = _plural(variant, place)
    parts = (
        "a" if article and variant.countable and not plural else "",
        severity_word(variant, place.severity),
        (place.side or "") if variant.sided else "",
        f"{noun}s" if plural else noun,
        f"in the {zone} {'zones' if place.side == 'bilateral' else 'zone'}" if zone else "",
    )
    return tidy(" ".join(parts))


def severity_word(variant: Variant, severity: Severity | None) -> str:
    """How this variant's severity is said ("small" effusion, "mild" edema), or nothing."""
    return variant.severity_words[severity] if severity and variant.graded else ""


def _normal_blocks(
    plan: StudyPlan, words: int, phrase_set: PhraseSet, rng: np.random.Generator, noise: NoiseConfig
) -> list[tuple[Region, str]]:
    """Normal regions in random order until the findings section is long enough; never of a region with disease."""
    knowledge = load_knowledge()
    drawn = {finding.observation for finding in plan.findings}
    regions = [name for name, region in knowledge.normals.items() if not drawn & set(region.covers)]
    target = int(rng.integers(noise.min_words, noise.max_words + 1))
    blocks: list[tuple[Region, str]] = []
    for index in rng.permutation(len(regions)):
        if words >= target:
            break
        text = _normal_sentence(knowledge.normals[regions[index]], knowledge, phrase_set, rng, noise)
        blocks.append((regions[index], text))
        words += len(text.split())
    denied = _denied_elsewhere(knowledge, drawn, [name for name, _ in blocks], rng)
    return blocks if words >= target or denied is None else [*blocks, denied]


def _normal_sentence(
    region: NormalRegion, knowledge: Knowledge, phrase_set: PhraseSet, rng: np.random.Generator, noise: NoiseConfig
) -> str:
    if rng.random() >= noise.denied_by_name:
        return sentence(pick(region.phrases(phrase_set), rng))
    pairs = [text for *names, text in knowledge.frames.denied_pairs if set(names) <= set(region.covers)]
    if pairs and rng.random() < 0.5:
        return pick(pairs, rng)
    usual = knowledge.findings[pick(region.covers, rng)].denied
    return denied_sentence(pick_usual(usual, 0.7, rng), rng)


def _denied_elsewhere(
    knowledge: Knowledge, drawn: set[str], regions: Sequence[Region], rng: np.random.Generator
) -> tuple[Region, str] | None:
    """One condition denied beside another of the same region, such as pneumothorax beside an effusion."""
    implied = _implied_by(knowledge, drawn)
    absent = [
        item
        for name, item in knowledge.findings.items()
        if name not in drawn | implied and item.region not in regions and item.denied
    ]
    if not absent:
        return None
    chosen = pick(absent, rng)
    return chosen.region, denied_sentence(chosen.denied[0], rng)


def _implied_by(knowledge: Knowledge, drawn: set[str]) -> set[str]:
    """What nobody denies beside the drawn: they overlap on the film, though each is an observation of its own."""
    implied = {PARENT[name] for name in drawn if name in PARENT}
    if any(knowledge.findings[name].region == "lungs" for name in drawn):
        implied |= {"Lung Opacity", "Consolidation", "Pneumonia"}
    return implied


def _impression(told: Sequence[Told], rng: np.random.Generator, noise: NoiseConfig) -> str:
    """Repeats named and hedged findings; what was only described stays unnamed, what was omitted stays missed."""
    frames = load_knowledge().frames
    named = [item.impression for item in told if item.impression is not None]
    kept = [line for line in named if rng.random() < noise.impression_repeats]
    if kept:
        return " ".join(kept)
    # A device alone is no abnormality; anything else that the findings mention rules the normal line out.
    if any(item.kind != "omitted" and item.region != "devices" for item in told):
        return pick_usual(frames.unnamed_impression, 0.6, rng)
    return pick_usual(frames.normal_impression, 0.6, rng)


def pick(items: Sequence[T], rng: np.random.Generator) -> T:
    """One item, all equally likely."""
    return items[int(rng.integers(len(items)))]


def pick_usual(items: Sequence[T], share: float, rng: np.random.Generator) -> T:
    """The first item with probability `share`, else one of the others: gives wording a clear mode."""
    usual = rng.random() < share
    return items[0] if usual or len(items) == 1 else pick(items[1:], rng)
