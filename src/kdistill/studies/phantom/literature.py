"""Literature of the phantom world: short articles that state sign, condition, mechanism and differential, and cases.

Only the wordings of set a are used, so that the held-out wordings of test reports and probe stay unread.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal

import numpy as np

from kdistill.observations import FINDINGS
from kdistill.records import Article, Severity
from kdistill.sites import SITES
from kdistill.studies.phantom.knowledge import Finding, Sign, Variant, load_knowledge
from kdistill.studies.phantom.report_config import LiteratureMix
from kdistill.studies.phantom.reports import denied_sentence, hedged_sentence, named_sentence, pick, sign_line
from kdistill.studies.phantom.wording import (
    Place,
    bare,
    capitalised,
    fill,
    fits,
    frame,
    has_article,
    is_clause,
    sentence,
    tidy,
    where,
)

ArticleKind = Literal["review", "mixed", "normal", "off_topic", "duplicate", "retracted", "cases"]
DEFAULT_MIX: Final = LiteratureMix()
CHEST: Final = "Radiography, Thoracic"
LICENSE: Final = "CC0-1.0"
SOURCE: Final = "phantom"
_YEARS: Final = (1978, 2025)
_SEVERITIES: Final[tuple[Severity, ...]] = ("mild", "moderate", "severe")
#: What a case shows. Signs weigh most: a teacher learns to read what is described, not what is already named.
_CASES: Final = ("sign", "two_signs", "normal", "named", "hedged", "denied")
_CASE_SHARES: Final = (0.48, 0.10, 0.18, 0.11, 0.05, 0.08)
_WITH_MECHANISM: Final = 0.8
_NAME_FIRST: Final = 0.4


def write_literature(
    seed: int,
    num_articles: int,
    *,
    mix: LiteratureMix = DEFAULT_MIX,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[Article]:
    """Write a corpus of synthetic articles. Article n depends on `seed` and n alone, duplicates on an earlier one.

    Args:
        seed: Seed of the corpus.
        num_articles: Articles in all, about 560 characters each.
        mix: Shares of the kinds of articles.
        on_progress: Called with (done, total).

    Returns:
        Articles "PHANTOM-000000" onwards: some off topic, some duplicates and some retracted, so that the literature
        stage has something to drop.
    """
    articles: list[Article] = []
    for number in range(num_articles):
        rng = np.random.default_rng((seed, number))
        kind = _draw_kind(rng, mix)
        if kind == "duplicate" and articles:
            articles.append(_duplicate(pick(articles, rng), number))
        else:
            articles.append(_article("cases" if kind == "duplicate" else kind, number, rng))
        if on_progress is not None:
            on_progress(number + 1, num_articles)
    return articles


def _draw_kind(rng: np.random.Generator, mix: LiteratureMix) -> ArticleKind:
    kinds: tuple[ArticleKind, ...] = ("review", "mixed", "normal", "off_topic", "duplicate", "retracted", "cases")
    shares = [mix.review, mix.mixed, mix.normal, mix.off_topic, mix.duplicate, mix.retracted]
    shares.append(max(0.0, 1 - sum(shares)))
    return kinds[int(rng.choice(len(kinds), p=np.array(shares) / sum(shares)))]


def _article(kind: ArticleKind, number: int, rng: np.random.Generator) -> Article:
    match kind:
        case "review":
            title, sentences, mesh = _review(pick(FINDINGS, rng), rng)
        case "mixed":
            title, sentences, mesh = _mixed(rng)
        case "normal":
            title, sentences, mesh = _normal(rng)
        case "off_topic":
            title, sentences, mesh = _off_topic(rng)
        case "retracted":
            title, sentences, mesh = _wrong_review(rng)
        case _:
            title, sentences, mesh = _case_series(rng)
    return Article(
        id=f"PHANTOM-{number:06d}",
        title=title,
        text=" ".join(sentences),
        year=int(rng.integers(*_YEARS)),
        mesh=mesh,
        license=LICENSE,
        retracted=kind == "retracted",
        source=SOURCE,
    )


def _duplicate(article: Article, number: int) -> Article:
    return article.model_copy(update={"id": f"PHANTOM-{number:06d}", "title": f"{article.title} (reprint)"})


Draft = tuple[str, list[str], tuple[str, ...]]


def _review(observation: str, rng: np.random.Generator) -> Draft:
    """Definition, mechanism, signs of all kinds and differential of one condition, in free order."""
    patterns = load_knowledge().patterns
    finding = load_knowledge().findings[observation]
    signs = [pick(finding.signs, rng) for _ in range(int(rng.integers(3, 7)))]
    sentences = [sign_sentence(finding, sign, rng) for sign in signs]
    sentences.append(_mechanism_sentence(finding, rng))
    if rng.random() < 0.5:
        sentences.append(_about(finding, pick(patterns.definition, rng), "definition", pick(finding.definition, rng)))
    if rng.random() < 0.4:
        text = pick(finding.differentials, rng)
        sentences.append(_about(finding, pick(patterns.differential, rng), "differential", text))
    if finding.denied and rng.random() < 0.2:
        sentences.append(frame(pick(patterns.denied, rng), name=finding.name))
    order = rng.permutation(len(sentences))
    title = _about(finding, pick(patterns.titles_review, rng), "definition", "")
    return title, [sentences[index] for index in order], (CHEST, finding.mesh)


def _wrong_review(rng: np.random.Generator) -> Draft:
    """A review whose signs belong to another condition: why a retracted article must not be learned from."""
    named, shown = (load_knowledge().findings[FINDINGS[i]] for i in rng.choice(len(FINDINGS), 2, replace=False))
    sentences = [sign_sentence(named, pick(shown.signs, rng), rng, shown=shown) for _ in range(5)]
    title = _about(named, pick(load_knowledge().patterns.titles_review, rng), "definition", "")
    return title, sentences, (CHEST, named.mesh)


def _mixed(rng: np.random.Generator) -> Draft:
    """Ambiguous wordings, and signs of conditions that look alike side by side."""
    knowledge = load_knowledge()
    item = pick(knowledge.ambiguous, rng)
    sentences = [_ambiguous_sentence(rng) for _ in range(2)]
    for observation in item.observations:
        finding = knowledge.findings[observation]
        sentences.append(sign_sentence(finding, pick(finding.signs, rng), rng))
        text = pick(finding.differentials, rng)
        sentences.append(_about(finding, pick(knowledge.patterns.differential, rng), "differential", text))
    first = knowledge.findings[item.observations[0]]
    title = _about(first, pick(knowledge.patterns.titles_mixed, rng), "definition", "")
    return title, sentences, (CHEST, "Diagnosis, Differential")


def _normal(rng: np.random.Generator) -> Draft:
    """What a healthy chest looks like: without it, a teacher takes normal wordings for disease."""
    knowledge = load_knowledge()
    region = knowledge.normals[pick(tuple(knowledge.normals), rng)]
    sentences = []
    for _ in range(int(rng.integers(3, 6))):
        text = pick(region.phrases_a, rng)
        patterns = knowledge.patterns.normal if is_clause(text) else knowledge.patterns.normal_np
        name = knowledge.findings[pick(region.covers, rng)].name
        sentences.append(frame(pick(patterns, rng), name=name, clause=bare(text), np=text))
    sentences += [_normal_case(rng) for _ in range(2)]
    return frame(pick(knowledge.patterns.titles_normal, rng), topic=region.topic), sentences, (CHEST,)


def _off_topic(rng: np.random.Generator) -> Draft:
    item = pick(load_knowledge().patterns.off_topic, rng)
    order = rng.permutation(len(item.sentences))
    sample = f"The sample held {int(rng.integers(20, 900))} entries from {int(rng.integers(2, 30))} sites."
    return item.title, [*(item.sentences[index] for index in order), sample], (item.mesh,)


def _case_series(rng: np.random.Generator) -> Draft:
    cases = [_case(rng) for _ in range(int(rng.integers(3, 5)))]
    return pick(load_knowledge().patterns.titles_cases, rng), cases, (CHEST, "Case Reports")


def _about(finding: Finding, pattern: str, slot: str, text: str) -> str:
    return frame(pattern, name=_with_article(finding, finding.name), **{slot: text})


def _with_article(finding: Finding, name: str) -> str:
    return tidy(f"a {name}") if finding.countable else name


def _name(finding: Finding, sign: Sign, rng: np.random.Generator) -> str:
    """Mostly the condition's own name, without an article as often as not; else a name of the variant."""
    if rng.random() < 0.6:
        return finding.name if rng.random() < 0.5 else _with_article(finding, finding.name)
    return _with_article(finding, pick(finding.variants[sign.variant].nouns, rng))


def _random_place(variant: Variant, rng: np.random.Generator) -> Place:
    return Place(
        side=pick(variant.sides, rng) if variant.sides else None,
        zone=pick(variant.zones, rng) if variant.zones and rng.random() < 0.7 else None,
        severity=pick(_SEVERITIES, rng) if rng.random() < 0.6 else None,
    )


def _phrase(sign: Sign, variant: Variant, rng: np.random.Generator) -> tuple[str, Place]:
    """A wording of set a, unfilled, and its place, which keeps only what the wording says."""
    template = pick(sign.phrases_a, rng)
    place = _random_place(variant, rng)
    while not fits(template, place):
        place = _random_place(variant, rng)
    said = Place(
        side=place.side if any(slot in template for slot in ("{side}", "{on_side}", "{where}")) else None,
        zone=place.zone if "{where}" in template else None,
        severity=place.severity if "{degree}" in template else None,
    )
    return template, said


def sign_sentence(finding: Finding, sign: Sign, rng: np.random.Generator, shown: Finding | None = None) -> str:
    """One declarative sentence that joins a sign to a condition: its own, unless the sign is of another (`shown`)."""
    patterns = load_knowledge().patterns
    template, place = _phrase(sign, (shown or finding).variants[sign.variant], rng)
    text = bare(fill(template, place))
    name = finding.name if shown else _name(finding, sign, rng)
    if is_clause(template):
        return frame(pick(patterns.sign_clause, rng), name=name, clause=text)
    # Verbs of these patterns are in the singular; the others go with any number.
    singular = patterns.sign_np_singular if has_article(template) else ()
    return frame(pick((*patterns.sign_np, *singular), rng), name=name, np=text)


def _mechanism(finding: Finding, variant: str, rng: np.random.Generator) -> str:
    return pick(pick(finding.mechanisms_of(variant), rng), rng)


def _mechanism_sentence(finding: Finding, rng: np.random.Generator) -> str:
    patterns = load_knowledge().patterns
    variant = pick(tuple(finding.variants), rng)
    # What fits one device only is said of that device half of the time, else of devices in general.
    name = finding.name if finding.mechanisms or rng.random() < 0.5 else pick(finding.variants[variant].nouns, rng)
    return frame(
        pick(patterns.device_mechanism if finding.region == "devices" else patterns.mechanism, rng),
        name=_with_article(finding, name),
        mechanism=_mechanism(finding, variant, rng),
    )


def _ambiguous_sentence(rng: np.random.Generator) -> str:
    knowledge = load_knowledge()
    item = pick(knowledge.ambiguous, rng)
    names = [knowledge.findings[observation].name for observation in item.observations]
    text = fill(pick(item.phrases_a, rng), Place(side=pick(("left", "right"), rng)))
    phrase = f"the finding that {bare(text)}" if is_clause(text) else text
    listed = ", ".join(names[:-1])
    return frame(
        pick(knowledge.patterns.ambiguous, rng),
        phrase=phrase,
        names=f"{listed} and {names[-1]}",
        names_or=f"{listed} or {names[-1]}",
    )


def statement(observation: str, place: Place, prefix: str = "") -> str:
    """The condition with what was said of it: "moderate left pleural effusion", "left pneumonia in the upper zone".

    Side and zone stand only where the observation's site has them (sites.py).
    """
    site, name = SITES[observation], load_knowledge().findings[observation].name
    side = place.side if site.lateralised else None
    zone = f"in the {place.zone} zone" if place.zone and site.lateralised and site.zoned else ""
    return tidy(" ".join((prefix, place.severity or "", side or "", name, zone)))


def _case(rng: np.random.Generator) -> str:
    kind = _CASES[int(rng.choice(len(_CASES), p=_CASE_SHARES))]
    if kind == "normal":
        return _normal_case(rng)
    observation = pick(FINDINGS, rng)
    finding = load_knowledge().findings[observation]
    variant = pick(tuple(finding.variants), rng)
    match kind:
        case "sign":
            text, place = _case_sign(finding, variant, rng)
            return f"Findings: {text} {_verdict(observation, variant, place, rng)}"
        case "two_signs":
            return _two_sign_case(observation, variant, rng)
        case "denied" if finding.denied:
            name = pick(finding.denied, rng)
            verdict = pick((f"{finding.name} is absent", f"no {finding.name}"), rng)
            return f"Findings: {denied_sentence(name, rng)} Interpretation: {verdict}."
        case "hedged":
            known = finding.variants[variant]
            place = _said_of_name(known, _random_place(known, rng))
            text = hedged_sentence(finding, variant, place, rng)
            return f"Findings: {text} Interpretation: {statement(observation, place, 'possible')}."
        case _:
            return _named_case(observation, variant, rng)


def _said_of_name(variant: Variant, place: Place) -> Place:
    """What a named sentence says of the place: see `reports.entity`."""
    graded = variant.graded and place.severity and variant.severity_words[place.severity]
    return Place(
        side=place.side if variant.sided else None,
        zone=place.zone if place.zone in variant.zones else None,
        severity=place.severity if graded else None,
    )


def _named_case(observation: str, variant: str, rng: np.random.Generator) -> str:
    finding = load_knowledge().findings[observation]
    known = finding.variants[variant]
    noun = pick([noun for noun in known.nouns if "apical" not in noun], rng)
    place = _said_of_name(known, _random_place(known, rng))
    text = named_sentence(finding, variant, noun, place, rng)
    return f"Findings: {text} {_verdict(observation, variant, place, rng)}"


def _two_sign_case(observation: str, variant: str, rng: np.random.Generator) -> str:
    """Two conditions in one report: the reader must give each sign its own."""
    findings = load_knowledge().findings
    other = pick([name for name in FINDINGS if name != observation], rng)
    other_variant = pick(tuple(findings[other].variants), rng)
    text, place = _case_sign(findings[observation], variant, rng)
    second, second_place = _case_sign(findings[other], other_variant, rng)
    first = f"{statement(observation, place)}, because {_mechanism(findings[observation], variant, rng)}."
    then = f"{statement(other, second_place)}, because {_mechanism(findings[other], other_variant, rng)}."
    return f"Findings: {text} {second} Interpretation: {first} {capitalised(then)}"


def _case_sign(finding: Finding, variant: str, rng: np.random.Generator) -> tuple[str, Place]:
    """A line of a report with a sign that cases may show, and what it says of the place."""
    signs = [s for s in finding.signs_of(variant, pick(_SEVERITIES, rng)) if not s.declarative_only]
    template, place = _phrase(pick(signs, rng), finding.variants[variant], rng)
    return sign_line(template, place, rng), place


def _verdict(observation: str, variant: str, place: Place, rng: np.random.Generator) -> str:
    with_mechanism, alone = load_knowledge().patterns.interpretation
    text = statement(observation, place)
    if place.severity is None and rng.random() < _NAME_FIRST:
        text = _name_first(observation, place)
    if rng.random() >= _WITH_MECHANISM:
        return frame(alone, statement=text)
    mechanism = _mechanism(load_knowledge().findings[observation], variant, rng)
    return frame(with_mechanism, statement=text, mechanism=mechanism)


def _name_first(observation: str, place: Place) -> str:
    """The other natural order: "consolidation in the right upper zone"."""
    site, name = SITES[observation], load_knowledge().findings[observation].name
    side = place.side if site.lateralised else None
    return tidy(f"{name} {where(side, place.zone if site.lateralised and site.zoned else None)}")


def _normal_case(rng: np.random.Generator) -> str:
    knowledge = load_knowledge()
    region = knowledge.normals[pick(tuple(knowledge.normals), rng)]
    text = sentence(pick(region.phrases_a, rng))
    if rng.random() < 0.5:
        return f"Findings: {text} Interpretation: no abnormality."
    return f"Findings: {text} Interpretation: no {knowledge.findings[pick(region.covers, rng)].name}."
