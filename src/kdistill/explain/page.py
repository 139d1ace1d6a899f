"""One study's explanation as one self-contained HTML page: X-ray, evidence maps, bars, report, rationale, citations."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from types import MappingProxyType
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kdistill.explain.explanation import (
    Explanation,
    ExplanationCitation,
    Flag,
    ObservationReading,
    RationaleSentence,
    ReportSection,
    ReportSentence,
)
from kdistill.explain.html import asset, document, text
from kdistill.explain.pictures import SCALE_TOP, colour_hex, overlay_uri, png_uri, where_peak
from kdistill.explain.sides import SIDES_IN_DOUBT
from kdistill.observations import INDEX, NO_FINDING

WORDS: Final[Mapping[str, str]] = MappingProxyType({"present": "high", "uncertain": "indeterminate", "absent": "low"})


def explanation_page(
    explanation: Explanation, image: NDArray[np.uint8], *, provenance: Mapping[str, object] | None = None
) -> str:
    """Render an explanation.

    Args:
        explanation: What the model says.
        image: uint8 [S, S], the canonical image; a larger rendering of the same square may be given for display.
        provenance: More lines for the provenance drawer (run, recipe, dates).

    Returns:
        A whole HTML document: no network access, everything escaped, the notice always on top.
    """
    body = "\n".join(
        (
            '<header class="head">',
            f'<h1>Study <span class="mono">{text(explanation.study_id)}</span></h1>',
            headline(explanation),
            _alerts(explanation),
            "</header>",
            '<main class="columns">',
            film(explanation, image),
            "" if explanation.abstained else observation_list(explanation.observations),
            '<div class="words">',
            report_section(explanation),
            "" if explanation.abstained else rationale_section(explanation.rationale),
            "</div>",
            flag_section(explanation.flags),
            provenance_section(explanation, provenance or {}),
            "</main>",
        )
    )
    package = "kdistill.explain"
    title = f"Explanation of {explanation.study_id}"
    return document(title=title, style=asset(package, "page.css"), script=asset(package, "page.js"), body=body)


def headline(explanation: Explanation) -> str:
    """Normal or abnormal in one line, before anything else."""
    if explanation.abstained:
        reasons = " ".join(
            flag.text for flag in explanation.flags if flag.code in ("implausible_image", "all_indeterminate")
        )
        return f'<p class="headline abstained"><strong>No answer.</strong> {text(reasons)}</p>'
    high = [o for o in explanation.observations if o.state == "present" and o.name != NO_FINDING]
    unsure = [o for o in explanation.observations if o.state == "uncertain" and o.name != NO_FINDING]
    where = "stated" if any(o.probability is None for o in explanation.observations) else "above its threshold"
    doubtful = text(", ".join(_named(o) for o in unsure))
    if any(o.name != "Support Devices" for o in high):
        names = ", ".join(_named(o) for o in high)
        line = f'<p class="headline abnormal"><strong>Abnormal:</strong> {text(names)}'
        return line + (f' <span class="unsure">Indeterminate: {doubtful}</span></p>' if unsure else "</p>")
    # What is indeterminate may lie above its threshold: then "no abnormality" holds for the others only.
    line = f'<p class="headline normal"><strong>No abnormality</strong> {where}'
    if unsure:
        line = (
            f'<p class="headline"><strong>Indeterminate:</strong> {doubtful} <span>No other abnormality {where}</span>'
        )
    return line + ("; support devices</p>" if high else "</p>")  # a device is no abnormality of the chest


def _alerts(explanation: Explanation) -> str:
    if not explanation.flags:
        return ""
    number = len(explanation.flags)
    count = "1 check objects to this answer" if number == 1 else f"{number} checks object to this answer"
    return f'<p class="alerts"><a href="#checks">{"Why there is no answer" if explanation.abstained else count}</a></p>'


def _named(item: ObservationReading) -> str:
    name = "other pleural abnormality" if item.name == "Pleural Other" else item.name.lower()
    return f"{name} ({item.side})" if item.side else name


def film(explanation: Explanation, image: NDArray[np.uint8]) -> str:
    """The X-ray with one overlay for each evidence map, and its controls."""
    overlays, captions = [], []
    doubtful = explanation.is_side_doubtful
    shown = () if explanation.abstained else explanation.observations
    first = _first_shown(explanation.observations)
    for index, item in enumerate(shown):
        if item.evidence_map is None:
            continue
        grid = np.asarray(item.evidence_map)
        hidden = "" if index == first else " hidden"
        overlays.append(
            f'<img class="overlay" data-index="{index}" src="{overlay_uri(grid)}" '
            f'alt="Evidence map of {text(item.name)}"{hidden}>'
        )
        peak, place = float(grid.max() * grid.size), where_peak(grid, is_side_doubtful=doubtful)
        captions.append(
            f'<span class="where" data-index="{index}"{hidden}>Evidence for <strong>{text(item.name)}</strong>: '
            f"strongest in the {text(place)}, {peak:.0f} times an equal share.</span>"
        )
    without = (
        "" if explanation.abstained else "<p>This model has no evidence maps: its decoder reads the whole image.</p>"
    )
    controls = _controls() if overlays else without
    query, sides = ("?", "its sides not certain") if doubtful else ("", "the patient's right on the left")
    return (
        '<section class="film-section" aria-label="X-ray and evidence map"><figure>'
        f'<div class="film"><span class="mark" aria-hidden="true">R{query}</span>'
        f'<div class="stack"><img class="xray" src="{png_uri(image)}" alt="Chest X-ray, {text(sides)}">'
        f'{"".join(overlays)}</div><span class="mark" aria-hidden="true">L{query}</span></div>'
        f'<figcaption aria-live="polite">{"".join(captions)}</figcaption></figure>{controls}</section>'
    )


def _first_shown(observations: Sequence[ObservationReading]) -> int:
    """The observation whose map is shown first: the one furthest above its threshold, "No Finding" last."""

    def rank(index: int) -> tuple[bool, float]:
        item = observations[index]
        return item.name != NO_FINDING and item.state == "present", (item.probability or 0.0) - (item.threshold or 0.0)

    return max(range(len(observations)), key=rank)


def _controls() -> str:
    stops = "".join(f'<stop offset="{i / 8:.3f}" stop-color="{colour_hex(i / 8)}"/>' for i in range(9))
    return (
        '<div class="controls">'
        '<button type="button" id="toggle" aria-pressed="true">Evidence <kbd>H</kbd></button>'
        '<button type="button" id="invert" aria-pressed="false">Invert <kbd>I</kbd></button>'
        '<label for="opacity">Opacity</label><input type="range" id="opacity" min="0" max="100" value="70">'
        "</div>"
        '<svg class="legend" viewBox="0 0 300 34" role="img" aria-label="Colour scale: from one to '
        f'{SCALE_TOP:.0f} times an equal share of attention, the same on every page"><defs>'
        f'<linearGradient id="scale">{stops}</linearGradient>'
        '</defs><rect x="0" y="0" width="300" height="12" rx="2" fill="url(#scale)"/>'
        '<text x="0" y="29">1× equal share</text><text x="300" y="29" text-anchor="end">'
        f"{SCALE_TOP:.0f}× · fixed scale</text></svg>"
    )


def observation_list(observations: Sequence[ObservationReading]) -> str:
    """The 14 bars with threshold ticks and the state in words; each row is a button that shows its evidence map."""
    first = _first_shown(observations)
    rows = "".join(_row(index, item, selected=index == first) for index, item in enumerate(observations))
    hint = "Choose one to see where the model looked for it (mouse, touch, or Tab and arrow keys)."
    return (
        f'<section class="observations" aria-labelledby="obs-title"><h2 id="obs-title">Observations</h2>'
        f'<p class="hint">{hint} The tick is the threshold.</p><ul id="observations">{rows}</ul></section>'
    )


def _row(index: int, item: ObservationReading, *, selected: bool) -> str:
    word = WORDS[item.state]
    if item.probability is None or item.threshold is None:
        word = {"present": "stated", "uncertain": "hedged", "absent": "not stated"}[item.state]
        number, bar = "–", '<span class="bar nohead">no classifier</span>'
    else:
        number, bar = f"{item.probability:.2f}", _bar(item.probability, item.threshold, item.state)
    side = f' <span class="side">{text(item.side)}</span>' if item.side and item.state != "absent" else ""
    return (
        f'<li><button type="button" class="row {item.state}" id="row-{index}" data-index="{index}" '
        f'aria-pressed="{str(selected).lower()}">'
        f'<span class="name">{text(item.name)}{side}</span>{bar}<span class="number">{number}</span>'
        f'<span class="state">{word}</span></button></li>'
    )


def _bar(probability: float, threshold: float, state: str) -> str:
    """A bar in SVG: widths as attributes, because the policy of the page forbids style attributes."""
    tick = 100 * threshold
    return (
        f'<svg class="bar {state}" viewBox="0 0 100 12" preserveAspectRatio="none" role="img" '
        f'aria-label="probability {probability:.2f}, threshold {threshold:.2f}">'
        '<rect class="track" x="0" y="2" width="100" height="8"/>'
        f'<rect class="fill" x="0" y="2" width="{100 * probability:.2f}" height="8"/>'
        f'<rect class="tick" x="{min(max(tick - 0.8, 0), 98.4):.2f}" y="0" width="1.6" height="12"/></svg>'
    )


def report_section(explanation: Explanation) -> str:
    """Findings and impression as they were generated; of a refused film there are none."""
    nothing = "(withheld: the model abstained)" if explanation.abstained else "(empty)"
    findings = _linked(explanation, "findings") or nothing
    impression = _linked(explanation, "impression") or nothing
    objections = "".join(
        f'<p class="objection">Objection: {_about(flag)}{text(flag.text)}</p>'
        for flag in explanation.flags
        if flag.sentences
    )
    hint = '<p class="hint">A sentence that names a finding leads to its bar and its map.</p>'
    is_told = explanation.is_side_doubtful and not explanation.abstained
    doubt = f'<p class="objection">{text(SIDES_IN_DOUBT)}</p>' if is_told else ""
    return (
        '<section class="report-section" aria-labelledby="report-title"><h2 id="report-title">Report</h2>'
        f"{doubt}{hint if any(s.mentions for s in explanation.report_sentences) else ''}"
        f'<dl class="report"><dt>Findings</dt><dd>{findings}</dd><dt>Impression</dt><dd>{impression}</dd></dl>'
        f"{objections}</section>"
    )


def _linked(explanation: Explanation, section: ReportSection) -> str:
    """A section of the report as it was written, its sentences leading to the observations that they name."""
    whole = explanation.findings if section == "findings" else explanation.impression
    torn = {sentence for flag in explanation.flags for sentence in flag.sentences}
    parts, done = [], 0
    for sentence in explanation.report_sentences:
        at = whole.find(sentence.text, done) if sentence.section == section else -1
        if at >= 0:
            parts += [text(whole[done:at]), _report_sentence(sentence, is_torn=sentence.text in torn)]
            done = at + len(sentence.text)
    return "".join((*parts, text(whole[done:])))


def _report_sentence(sentence: ReportSentence, *, is_torn: bool) -> str:
    names = list(dict.fromkeys(mention.observation for mention in sentence.mentions))
    kind = "says torn" if is_torn else "says"
    if not names:
        return text(sentence.text)
    return (
        f'<a class="{kind}" href="#row-{INDEX[names[0]]}" data-names="{text("|".join(names))}" '
        f'title="{text(", ".join(names))}">{text(sentence.text)}</a>'
    )


def rationale_section(rationale: Sequence[RationaleSentence], *, title: str = "Rationale") -> str:
    """Sentence by sentence, grouped by observation, each with the citation that was found for it."""
    if not rationale:
        return f'<section aria-label="{text(title)}"><h2>{text(title)}</h2><p>(this model writes none)</p></section>'
    parts = []
    for observation, sentences in groupby(rationale, key=lambda s: s.observation):
        group = list(sentences)
        items = "".join(_sentence(s) for s in group)
        kind = ' class="denied"' if all(s.state == "absent" for s in group) else ""
        tag = f"<h3>{text(observation or 'No observation')}</h3>"
        parts.append(f'<li data-name="{text(observation or "")}"{kind}>{tag}{items}</li>')
    return (
        f'<section class="rationale" aria-label="{text(title)}"><h2>{text(title)}</h2>'
        f"<ol>{''.join(parts)}</ol></section>"
    )


def _sentence(sentence: RationaleSentence) -> str:
    kind = "statement" if sentence.statement else "reason"
    if sentence.citations:
        source = "".join(_citation(c) for c in sentence.citations)
    else:
        source = "" if sentence.statement else '<p class="source none">No source found for this sentence.</p>'
    return f'<p class="{kind}">{text(sentence.text)}</p>{source}'


def _citation(citation: ExplanationCitation) -> str:
    year = f" ({citation.year})" if citation.year else ""
    pmid = f" · PMID {text(citation.pmid)}" if citation.pmid else ""
    return (
        f'<details class="source"><summary>{text(citation.title or citation.article_id)}{year}</summary>'
        f"<blockquote>{text(citation.quote)}</blockquote>"
        f'<p class="mono">{text(citation.article_id)}{pmid}</p></details>'
    )


def flag_section(flags: Sequence[Flag]) -> str:
    """What speaks against this explanation; an empty list says so."""
    if flags:
        items = "".join(
            f"<li><code>{text(f.code.replace('_', ' '))}</code> {_about(f)}{text(f.text)}</li>" for f in flags
        )
        content = f"<ul>{items}</ul>"
    else:
        content = "<p>None of the checks objected. That is no proof that the answer is right.</p>"
    return (
        '<section class="flags" id="checks" aria-labelledby="flag-title"><h2 id="flag-title">Checks</h2>'
        f"{content}</section>"
    )


def _about(flag: Flag) -> str:
    return f"<strong>{text(flag.observation)}:</strong> " if flag.observation else ""


def provenance_section(explanation: Explanation, more: Mapping[str, object]) -> str:
    """Which weights read which pixels."""
    lines: Iterable[tuple[str, object]] = (
        ("model", explanation.model),
        ("image sha256", explanation.image_sha256),
        *more.items(),
    )
    items = "".join(f'<dt>{text(k)}</dt><dd class="mono">{text(v)}</dd>' for k, v in lines)
    return f'<section class="provenance"><details><summary>Provenance</summary><dl>{items}</dl></details></section>'
