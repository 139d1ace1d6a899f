"""Does a text state a finding and deny it elsewhere, or state it in two degrees?

The rule labeler reads each sentence; a denial contradicts a statement only where it reaches what is stated: the same
side and zone, the same thing, under the same limits. "Left effusion. No right effusion.", "A mass. No nodule.", "Small
effusion. No large effusion." are no contradictions. A hedge is none either ("possible edema" beside "no edema"), nor
is what one sentence says for and against itself: both are too often an honest doubt. docs/faithfulness.md has the rules
and what they miss.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Final, NamedTuple

from kdistill.explain.mentions import side_said
from kdistill.explain.sentences import assign_sentences
from kdistill.labelers.rules import Mention, RuleLabeler
from kdistill.observations import FINDINGS, NO_FINDING, SUPPORT_DEVICES
from kdistill.records import Severity, Side, Zone
from kdistill.sites import SITES
from kdistill.teacher.attributes import severities_of, side_of, zone_of

_WORD: Final = re.compile(r"[a-z]+")
_CUE: Final = re.compile(r"\b(?:no|not|without|neither|nor|never|free of|clear of|absence of|lack of|negative for)\b")
_LIST: Final = re.compile(r"[,;:/]|\b(?:or|and|nor|but|with)\b")
_CLAUSE: Final = re.compile(r"[,;:]|\b(?:but|with|and|no|without)\b")
#: What ends a denial's reach behind its finding; a comma does not ("no effusion, edema or collapse on the left").
_REACH: Final = re.compile(r"[;:]|\b(?:but|with|no|without)\b")
_ON_SIDE: Final = re.compile(r"\b(?:on|in|at|over|within) (?:the )?(left|right)\b")
_PART_OF: Final = re.compile(r"\s+of (?:the |an? )?([a-z]+)")

#: Words between "no" and a finding that leave the denial as wide as it is. Any other word narrows it.
_NEUTRAL_WORDS: Final = (
    "a an any the of is are was were be has have been there this that it in on at to for seen noted evidence sign signs"
    " suggestion indication radiographic radiographically plain film definite definitely convincing clear visible"
    " obvious appreciable demonstrable identifiable focal pleural pulmonary lung lungs chest airspace findings finding"
    " suggest indicate either side heart cardiac mediastinal size"
)
_NEUTRAL: Final = frozenset(_NEUTRAL_WORDS.split())
#: Words that narrow every finding of a list ("no new effusion or pneumothorax").
_SPREADING_WORDS: Final = (
    "acute new large larger significant other further additional residual recurrent sizable sizeable gross overt frank"
    " worsening increasing increased interval suspicious"
)
_SPREADING: Final = frozenset(_SPREADING_WORDS.split())
#: "Normal" said with one of these is a doubt, no denial ("the heart is top normal").
_HARDLY: Final = frozenset({"top", "near", "nearly", "almost", "upper", "high", "borderline"})
#: A sentence about another film, or about what another examination may show, says nothing of this one.
_ELSEWHERE: Final = re.compile(r"\b(?:prior|previous|outside|recent|recommend\w*|evaluation|follow[ -]?up)\b")
#: De-identified words: two of them are not the same word.
_PLACEHOLDERS: Final = frozenset({"xxxx", "x"})
#: "Otherwise unremarkable" says that something is there.
_BESIDES: Final = re.compile(r"\b(?:otherwise|other|additional|further|new|besides|apart|aside|except|interval|else)\b")
#: What need not be acute, so that "no acute abnormality" says nothing of it.
_ACUTE: Final = frozenset({"Edema", "Consolidation", "Pneumonia", "Pneumothorax", "Pleural Effusion"})
_QUIET: Final = frozenset({("Edema", "congestion"), ("Edema", "lines")})
_OLD: Final = re.compile(
    r"\b(?:chronic|old|stable|unchanged|prior|previous|resolving|residual|healed|improv\w+|decreas\w+|scar\w*|trace"
    r"|tiny|minimal|again|known|persistent|continued|soft tissue)\b"
)

#: Things that share an observation's name but are not one another. What matches none is the observation as a whole,
#: which a denial of it covers with all its kinds; observations in _PARTS have no name for the whole.
_KINDS: Final[Mapping[str, tuple[tuple[str, re.Pattern[str]], ...]]] = MappingProxyType(
    {
        name: tuple((kind, re.compile(pattern)) for kind, pattern in kinds.items())
        for name, kinds in {
            "Enlarged Cardiomediastinum": {"mass": "mass"},
            "Cardiomegaly": {"chamber": "ventric|atrial|chamber"},
            "Lung Lesion": {
                "mass": "mass|tumou?r|neoplas|carcinoma|cancer|malignan|lump",
                "nodule": "nodul",
                "cavity": "cavit",
            },
            "Lung Opacity": {
                "interstitial": "interstit|reticul|marking|peribronch|wall thick",
                "airspace": r"air[\s-]?space|infiltrat|alveol|bronchogram",
                "scar": "scar",
                "opacity": "opac|densit|haz|ground|white ?out|translucen",
            },
            "Edema": {
                "congestion": "congest|engorge|prominen|fullness|indistinct|vascul|vessel",
                "failure": "failure|chf|overload|decompens",
                "lines": "kerley|septal|b lines",
                "edema": "o?edema",
            },
            "Atelectasis": {"collapse": "collaps"},
            "Pleural Effusion": {"other fluid": "hemothora|haemothora|hydrothora|empyem"},
            "Pleural Other": {"plaque": "plaque|calcif", "scar": "scar|fibro", "thickening": "thick|cap"},
        }.items()
    }
)
_ANY_DEVICE: Final = re.compile("device|hardware|apparatus|equipment")


class Assertion(NamedTuple):
    """What one sentence says for or against one observation.

    Attributes:
        observation: One of OBSERVATIONS.
        denied: Whether it says that there is none.
        kind: Which of the things that share the name; None: the observation as a whole.
        side: The side that its clause names.
        zone: The zone that its clause names.
        limits: Words that narrow a denial ("no large effusion").
        degrees: Those that the clause of a statement names; none for a denial.
        number: Which sentence of its text.
        sentence: That sentence.
    """

    observation: str
    denied: bool
    kind: str | None
    side: Side | None
    zone: Zone | None
    limits: frozenset[str]
    degrees: frozenset[Severity]
    number: int
    sentence: str


class Contradiction(NamedTuple):
    """One finding, the sentence that states it, and the one that denies it."""

    observation: str
    stated: str
    denied: str


class TwoDegrees(NamedTuple):
    """One finding and two sentences that state it in different degrees."""

    observation: str
    one: str
    other: str


def report_assertions(report: str, labeler: RuleLabeler) -> list[Assertion]:
    """What a report states and denies, hedges left out.

    Args:
        report: Findings and impression.
        labeler: Who reads it.
    """
    return [
        _assertion(report, mention)
        for mention in labeler.mentions(report)
        if mention.state in (1, 0) and not _ELSEWHERE.search(mention.sentence_text.lower())
    ]


def rationale_assertions(rationale: str, labeler: RuleLabeler) -> list[Assertion]:
    """What the statements of a rationale state and deny; its sentences of general knowledge say nothing of this film.

    Args:
        rationale: As generated.
        labeler: Who reads the statements.
    """
    return report_assertions(" ".join(s.text for s in assign_sentences(rationale) if s.is_statement), labeler)


def own_contradictions(said: Sequence[Assertion]) -> list[Contradiction]:
    """Each observation that a text states in one sentence and denies in another, the first pair of each."""
    pairs = ((s, d) for s in said for d in said if s.number != d.number)
    return _first_of_each(pairs)


def cross_contradictions(one: Sequence[Assertion], other: Sequence[Assertion]) -> list[Contradiction]:
    """Each observation that one text states and the other denies.

    Where a text contradicts itself on an observation it has no word for the other to contradict: that is left out.
    """
    torn = {c.observation for said in (one, other) for c in own_contradictions(said)}
    pairs = ((a, b) for first, second in ((one, other), (other, one)) for a in first for b in second)
    return [c for c in _first_of_each(pairs) if c.observation not in torn]


def two_degrees(said: Sequence[Assertion]) -> list[TwoDegrees]:
    """Each observation that two sentences of a text state in degrees that exclude each other, the first pair of each.

    The same kind of thing at the same side and zone: "Small effusion. Moderate left effusion." may be two effusions. A
    sentence that names several degrees ("mild to moderate") excludes none of them.
    """
    found: dict[str, TwoDegrees] = {}
    for at, one in enumerate(said):
        for other in said[at + 1 :]:
            if one.observation not in found and _is_same_thing(one, other) and _degrees_exclude(one, other):
                found[one.observation] = TwoDegrees(one.observation, one.sentence, other.sentence)
    return list(found.values())


def _is_same_thing(one: Assertion, other: Assertion) -> bool:
    def thing(said: Assertion) -> tuple[object, ...]:
        return said.observation, said.denied, said.kind, said.side, said.zone

    return one.number != other.number and thing(one) == thing(other)


def _degrees_exclude(one: Assertion, other: Assertion) -> bool:
    return bool(one.degrees) and bool(other.degrees) and one.degrees.isdisjoint(other.degrees)


def _first_of_each(pairs: Iterator[tuple[Assertion, Assertion]]) -> list[Contradiction]:
    found: dict[str, Contradiction] = {}
    for stated, denial in pairs:
        if stated.observation not in found and contradicts(denial, stated):
            found[stated.observation] = Contradiction(stated.observation, stated.sentence, denial.sentence)
    return list(found.values())


def contradicts(denial: Assertion, stated: Assertion) -> bool:
    """Whether a denial reaches what is stated."""
    if stated.denied or stated.observation == NO_FINDING:
        return False
    if denial.observation == NO_FINDING:
        return _rules_out(denial, stated)
    return (
        denial.denied
        and denial.observation == stated.observation
        and denial.kind in (None, stated.kind)
        and denial.side in (None, stated.side, *_one_of_both(stated.side))
        and denial.zone in (None, stated.zone)
        and denial.limits <= set(_WORD.findall(stated.sentence.lower())) - _PLACEHOLDERS
    )


def _one_of_both(side: Side | None) -> tuple[Side, ...]:
    return ("left", "right") if side == "bilateral" else ()


def _rules_out(normal: Assertion, stated: Assertion) -> bool:
    """Whether "no acute abnormality" or "normal chest" leaves no room for a stated finding."""
    if _BESIDES.search(normal.sentence.lower()) or stated.observation not in FINDINGS:
        return False
    if normal.kind == "acute":
        is_acute = stated.observation in _ACUTE and (stated.observation, stated.kind) not in _QUIET
        return is_acute and not _OLD.search(stated.sentence.lower())
    return stated.observation != SUPPORT_DEVICES


def _assertion(text: str, mention: Mention) -> Assertion:
    sentence = mention.sentence_text
    at = mention.start - text.rfind(sentence, 0, mention.start + len(sentence))
    before, after = sentence[:at].lower(), sentence[at + len(mention.phrase) :].lower()
    phrase, denied, name = mention.phrase.lower(), mention.state == 0, mention.observation
    near = _CLAUSE.split(before)[-1] + phrase + (_REACH if denied else _CLAUSE).split(after)[0]
    side = mention.side
    if denied and side is None and (found := _ON_SIDE.search(_REACH.split(after)[0])):
        side = side_of(found[1])
    return Assertion(
        observation=name,
        denied=denied,
        kind=_kind(name, phrase),
        side=side_said(name, side),
        zone=zone_of(near) if SITES[name].lateralised and SITES[name].zoned else None,
        limits=_limits(name, before, phrase, after) if denied else frozenset(),
        degrees=frozenset() if denied else severities_of(near),
        number=mention.sentence,
        sentence=sentence,
    )


def _kind(observation: str, phrase: str) -> str | None:
    if observation == NO_FINDING:
        return "acute" if re.search(r"\b(?:acute|active)\b", phrase) else None
    if observation == SUPPORT_DEVICES:
        return None if _ANY_DEVICE.search(phrase) else phrase.removesuffix("s")
    return next((kind for kind, pattern in _KINDS.get(observation, ()) if pattern.search(phrase)), None)


def _limits(observation: str, before: str, phrase: str, after: str) -> frozenset[str]:
    """The words that narrow a denial: those of its own place in a list, and those at its head that hold for all."""
    focal = frozenset({"focal"}) if observation == "Lung Opacity" else frozenset()  # a streaky opacity is not focal
    neutral = _NEUTRAL - focal
    cues = list(_CUE.finditer(before))
    reach = before[cues[-1].end() :] if cues else _CLAUSE.split(before)[-1]
    own = set(_WORD.findall(_LIST.split(reach)[-1])) - neutral
    spread = set(_WORD.findall(reach)) & _SPREADING
    part = _PART_OF.match(after)
    inside = set(_WORD.findall(phrase)) & (_HARDLY | focal)
    words = own | spread | ({part[1]} - neutral if part else set())
    return frozenset(word for word in words if side_of(word) is None and zone_of(word) is None) | inside
