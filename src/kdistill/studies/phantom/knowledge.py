"""The phantom world's radiology as typed, checked data (knowledge.yaml): signs, mechanisms, differentials, wordings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from functools import lru_cache
from importlib import resources
from typing import Literal

from pydantic import Field, model_validator

from kdistill.config import ConfigModel as StrictModel
from kdistill.config import parse_yaml, validate
from kdistill.observations import FINDINGS, OBSERVATION_TERMS
from kdistill.records import ProbeItem, Severity, Side, Zone
from kdistill.studies.phantom.plan import VARIANTS
from kdistill.studies.phantom.wording import SLOTS, Place, bare, fill, slots

PhraseSet = Literal["a", "b"]
Region = Literal["lungs", "pleura", "heart", "mediastinum", "bones", "devices"]
Wordings = tuple[str, ...]


class Worded(StrictModel):
    """Something with two sets of wordings. Set b is held out: test reports and the teacher's probe only."""

    phrases_a: Wordings = Field(min_length=2)
    phrases_b: Wordings = Field(min_length=2)

    def phrases(self, phrase_set: PhraseSet) -> Wordings:
        """The wordings of one set."""
        return self.phrases_a if phrase_set == "a" else self.phrases_b


class Sign(Worded):
    """A radiographic sign of one variant of an observation. No severities: it goes with all of them."""

    id: str
    variant: str
    severities: tuple[Severity, ...] = ()
    declarative_only: bool = False


class Variant(StrictModel):
    """A way in which the observation looks: its names (the first is the usual one) and where it sits.

    `countable` names take an article and a plural; a name that is not `graded` takes no severity; one that is not
    `sided` takes no side ("pulmonary edema", though both lungs are affected).
    """

    nouns: Wordings = Field(min_length=1)
    countable: bool = False
    graded: bool = True
    sided: bool = True
    sides: tuple[Side, ...]
    zones: tuple[Zone, ...]
    severity_words: Mapping[Severity, str] = {"mild": "mild", "moderate": "moderate", "severe": "severe"}
    mechanisms: tuple[Wordings, ...] = ()


class Finding(StrictModel):
    """All that is known of one observation. `frames`, where given, replace the usual frames for naming it."""

    name: str
    region: Region
    mesh: str
    definition: Wordings
    mechanisms: tuple[Wordings, ...]
    differentials: Wordings
    denied: Wordings
    frames: Wordings = ()
    variants: Mapping[str, Variant]
    signs: tuple[Sign, ...]

    @property
    def countable(self) -> bool:
        """Whether the name takes an article ("a pneumothorax", but "pneumonia")."""
        return any(variant.countable for variant in self.variants.values())

    def mechanisms_of(self, variant: str) -> tuple[Wordings, ...]:
        """Mechanisms of the variant, or else those of the observation; each with its wordings."""
        return self.variants[variant].mechanisms or self.mechanisms

    def signs_of(self, variant: str, severity: Severity | None = None) -> tuple[Sign, ...]:
        """Signs of a variant; a sign tied to severities is left out unless one of them is given."""
        return tuple(s for s in self.signs if s.variant == variant and (not s.severities or severity in s.severities))


class AmbiguousSign(Worded):
    """A wording from which no reader can tell one observation."""

    id: str
    observations: tuple[str, ...] = Field(min_length=2)


class NormalRegion(Worded):
    """Sentences on a region without disease; each rules out all that the region `covers`."""

    covers: tuple[str, ...]
    topic: str


class Frames(StrictModel):
    """Sentence frames of reports; the first of each is the usual one."""

    named: Wordings
    hedged: Wordings
    denied: Wordings
    denied_pairs: tuple[tuple[str, str, str], ...]
    normal_impression: Wordings
    unnamed_impression: Wordings


class OffTopic(StrictModel):
    """An article with no chest in it."""

    mesh: str
    title: str
    sentences: Wordings

    @model_validator(mode="before")
    @classmethod
    def _from_list(cls, value: object) -> object:
        return dict(zip(("mesh", "title", "sentences"), value, strict=True)) if isinstance(value, list) else value


class Patterns(StrictModel):
    """Sentence patterns of the literature."""

    sign_np: Wordings
    sign_np_singular: Wordings
    sign_clause: Wordings
    definition: Wordings
    mechanism: Wordings
    device_mechanism: Wordings
    differential: Wordings
    ambiguous: Wordings
    normal: Wordings
    normal_np: Wordings
    denied: Wordings
    interpretation: Wordings
    titles_review: Wordings
    titles_cases: Wordings
    titles_normal: Wordings
    titles_mixed: Wordings
    off_topic: tuple[OffTopic, ...]


class Reference(StrictModel):
    """A publication that the knowledge rests on."""

    key: str
    text: str
    doi: str | None = None
    pmid: str | None = None


class Knowledge(StrictModel):
    """The whole file, checked: every variant has signs of both kinds of evidence, and no wording stands twice."""

    findings: Mapping[str, Finding]
    ambiguous: tuple[AmbiguousSign, ...]
    normals: Mapping[Region, NormalRegion]
    frames: Frames
    patterns: Patterns
    references: tuple[Reference, ...]

    @model_validator(mode="after")
    def _is_complete(self) -> Knowledge:
        if tuple(self.findings) != FINDINGS:
            raise ValueError(f"findings must be {FINDINGS}, in this order")
        for name, finding in self.findings.items():
            if tuple(finding.variants) != VARIANTS[name]:
                raise ValueError(f"{name}: variants must be {VARIANTS[name]}")
            if finding.name != OBSERVATION_TERMS[name]:
                raise ValueError(f"{name}: the name must be {OBSERVATION_TERMS[name]!r}, as everywhere")
            for variant in finding.variants:
                if all(sign.declarative_only for sign in finding.signs_of(variant)):
                    raise ValueError(f"{name}/{variant}: no sign that a case report may hold")
        unknown = {o for item in self.ambiguous for o in item.observations} - set(FINDINGS)
        unknown |= {o for region in self.normals.values() for o in region.covers} - set(FINDINGS)
        if unknown:
            raise ValueError(f"unknown observations {sorted(unknown)}")
        return self

    @model_validator(mode="after")
    def _wordings_are_unique(self) -> Knowledge:
        wordings = [text for item in self.worded() for text in (*item.phrases_a, *item.phrases_b)]
        counts = Counter(bare(text).lower() for text in wordings)
        if twice := sorted(text for text, count in counts.items() if count > 1):
            raise ValueError(f"wordings stand twice: {twice}")
        if unknown := {slot for text in wordings for slot in slots(text)} - SLOTS:
            raise ValueError(f"unknown slots {sorted(unknown)}")
        ids = Counter(sign.id for _, sign in self.signs())
        if max(ids.values()) > 1:
            raise ValueError(f"sign ids stand twice: {sorted(i for i, n in ids.items() if n > 1)}")
        return self

    def signs(self) -> Iterator[tuple[str, Sign]]:
        """Every unambiguous sign with its observation."""
        for name, finding in self.findings.items():
            for sign in finding.signs:
                yield name, sign

    def worded(self) -> Iterator[Worded]:
        """All that has wordings of both sets: signs, ambiguous signs, normal regions."""
        yield from (sign for _, sign in self.signs())
        yield from self.ambiguous
        yield from self.normals.values()


@lru_cache(maxsize=1)
def load_knowledge() -> Knowledge:
    """Read and check the package's knowledge.yaml.

    Raises:
        ConfigError: The file was changed into something that is not valid; all problems are named.
    """
    text = resources.files("kdistill.studies.phantom").joinpath("knowledge.yaml").read_text(encoding="utf-8")
    return validate(Knowledge, parse_yaml(text, where="knowledge.yaml"), where="knowledge.yaml")


def probe_items() -> list[ProbeItem]:
    """Held-out wordings of every unambiguous sign, sides and zones filled in, for the teacher's knowledge probe."""
    items = []
    for name, sign in load_knowledge().signs():
        variant = load_knowledge().findings[name].variants[sign.variant]
        for index, phrase in enumerate(sign.phrases_b):
            place = typical_place(variant, index)
            items.append(
                ProbeItem(phrase=bare(fill(phrase, place)), observation=name, declarative_only=sign.declarative_only)
            )
    return items


def typical_place(variant: Variant, index: int) -> Place:
    """The index-th of the variant's sides (left or right; bilateral where it is the only one) and zones, in turn."""
    sides = tuple(side for side in variant.sides if side != "bilateral") or variant.sides
    return Place(
        side=sides[index % len(sides)] if sides else None,
        zone=variant.zones[index % len(variant.zones)] if variant.zones else None,
    )
