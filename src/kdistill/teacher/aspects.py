"""What the literature says an observation looks like, in four visual aspects, embedded by the teacher.

Descriptions taken apart into visual aspects transfer better than whole ones (Phan et al. 2024, MAVL, arXiv:2403.07636);
there a large language model writes them, here they are sentences of the run's own literature, with their articles.

    v_la = mean_s embed(sentence s of aspect a on observation l)      embed: see targets.embed
    v_l  = unit(mean_a v_la - mean_l' mean_a v_l'a)                   over the aspects that have a sentence
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final, Literal, NamedTuple

import numpy as np
from safetensors.numpy import save_file

from kdistill.labelers.rules import RuleLabeler
from kdistill.observations import NO_FINDING, OBSERVATIONS
from kdistill.records import write_jsonl
from kdistill.teacher.language_model import LanguageModel
from kdistill.teacher.meaning import OTHER_NAMES
from kdistill.teacher.retrieval import LiteratureSentences
from kdistill.teacher.statements import statement
from kdistill.teacher.targets import embed

Aspect = Literal["shape", "density", "site", "border"]

#: The lexicon: beginnings of words with which a radiograph is described. Written for this project. No left and right:
#: they say where a finding lies in one patient, not what it looks like.
LEXICON: Final[Mapping[Aspect, str]] = MappingProxyType(
    {
        "shape": "round oval spher coin disc nodul mass focus focal linear line band streak strand wedge triang "
        "crescent menisc dome curv convex concav bulg flat straight angled angulat tubul branching globul wing "
        "butterfly leaf ring thread box large small enlarg wide widen broad narrow thick thin diameter ratio width "
        "volume step displac shift push crowd parallel",
        "density": "opaci opaque dense densit lucen radiolucen translucen white black dark bright grey gray haz veil "
        "frost ground-glass shadow milky homogen uniform patch fluffy blotch mottled reticul metal calcif lime "
        "air-fill aerat fluid filled",
        "site": "upper middle lower apex apical base basal basilar bibasilar hilum hila hilar perihilar mediastin "
        "paratrach retrocard costophren sulcus sulci recess lobe lobar segment zone periph central diaphragm "
        "hemidiaphragm hemithorax pleura rib axilla clavicl trachea bronch atri ventric aort lateral medial chest",
        "border": "border margin edge outline contour silhouette sharp blur blunt ill-defined well-defined indistinct "
        "obscur effac erase vanish disappear smooth spicul sunburst lobulat irregular circumscrib doubled fuzzy "
        "interrupt cortex cleft fissure",
    }
)
_WORDS: Final[Mapping[Aspect, re.Pattern[str]]] = MappingProxyType(
    {
        aspect: re.compile(rf"\b(?:{'|'.join(map(re.escape, stems.split()))})[\w-]*", re.IGNORECASE)
        for aspect, stems in LEXICON.items()
    }
)
#: Names longer than the phrase by which the labeler knows them.
_NAMES: Final = re.compile("|".join(name for names in OTHER_NAMES.values() for name in names), re.IGNORECASE)
#: The sentence describes the observation's absence, and still names it as the thing in question.
_AGAINST: Final = re.compile(r"\b(?:against|normal|unlikely)\b", re.IGNORECASE)
MAX_SENTENCES = 16


class AspectSentence(NamedTuple):
    """A sentence, the article that it is from (None for the teacher's own statement), and what it describes."""

    observation: str
    aspect: Aspect | None
    text: str
    article_id: str | None


@dataclass(frozen=True)
class Aspects:
    """Visual aspects of the 14 observations.

    Attributes:
        sentences: What was embedded, in order.
        counts: int64 [14, 4], sentences behind each aspect.
        aspects: float32 [14, 4, D], zero where there is no sentence.
        observations: float32 [14, D], of unit length.
    """

    sentences: tuple[AspectSentence, ...]
    counts: np.ndarray
    aspects: np.ndarray
    observations: np.ndarray

    def write(self, directory: Path) -> None:
        """Write aspects.safetensors and aspects.jsonl (one sentence a line, with its article)."""
        arrays = {"counts": self.counts, "aspects": self.aspects, "observations": self.observations}
        save_file(arrays, directory / "aspects.safetensors")
        write_jsonl(directory / "aspects.jsonl", (sentence._asdict() for sentence in self.sentences))


def aspect_of(sentence: str, labeler: RuleLabeler) -> Aspect | None:
    """The aspect that most of a sentence's radiographic words are about; None where it has none.

    Names of observations do not count: "rib" in "rib fracture" is no site, "opacity" in "lung opacity" no density. Ties
    go to the rarer aspect: nearly every sentence names a site, few a border.

    >>> aspect_of("Borders in contact with the dense lobe disappear in consolidation.", RuleLabeler())
    'border'
    """
    bare = _NAMES.sub(" ", sentence)
    for mention in labeler.mentions(bare):
        bare = bare[: mention.start] + " " * (mention.end - mention.start) + bare[mention.end :]
    found: dict[Aspect, int] = {aspect: len(pattern.findall(bare)) for aspect, pattern in _WORDS.items()}
    rarest: tuple[Aspect, ...] = ("border", "shape", "density", "site")
    best = max(rarest, key=lambda aspect: found[aspect])
    return best if found[best] else None


def aspect_sentences(literature: LiteratureSentences) -> list[AspectSentence]:
    """At most MAX_SENTENCES descriptions of each aspect of each observation, in the order of retrieval.

    An observation that the literature does not describe ("No Finding" never is: its articles describe what is there)
    has the teacher's canonical statement instead.
    """
    found: list[AspectSentence] = []
    labeler = RuleLabeler()
    for observation in OBSERVATIONS:
        described = [] if observation == NO_FINDING else _described(literature, observation, labeler)
        found += described or [AspectSentence(observation, None, statement(observation, "present") + ".", None)]
    return found


def _described(literature: LiteratureSentences, observation: str, labeler: RuleLabeler) -> list[AspectSentence]:
    kept: dict[Aspect, list[AspectSentence]] = {aspect: [] for aspect in LEXICON}
    for quote in literature.candidates(observation, ""):
        aspect = aspect_of(quote.text, labeler)
        if quote.role != "sign" or aspect is None or _AGAINST.search(quote.text):
            continue
        if len(kept[aspect]) < MAX_SENTENCES:
            kept[aspect].append(AspectSentence(observation, aspect, quote.text, quote.article_id))
    return [sentence for sentences in kept.values() for sentence in sentences]


def build_aspects(language_model: LanguageModel, literature: LiteratureSentences, *, batch_size: int) -> Aspects:
    """Find the descriptions, embed them together, and average them by aspect, then by observation.

    Args:
        language_model: The teacher.
        literature: Where descriptions are found.
        batch_size: Sentences embedded at once.
    """
    sentences = aspect_sentences(literature)
    vectors = embed(language_model, [sentence.text for sentence in sentences], batch_size=batch_size)
    return average(tuple(sentences), vectors)


def average(sentences: tuple[AspectSentence, ...], vectors: np.ndarray) -> Aspects:
    """Sentence embeddings [S, D] -> aspects and observations (see the module's formula)."""
    names = tuple(LEXICON)
    counts = np.zeros((len(OBSERVATIONS), len(names)), dtype=np.int64)
    aspects = np.zeros((*counts.shape, vectors.shape[1]), dtype=np.float32)
    means = np.zeros((len(OBSERVATIONS), vectors.shape[1]), dtype=np.float32)
    for row, observation in enumerate(OBSERVATIONS):
        for column, aspect in enumerate(names):
            own = [n for n, s in enumerate(sentences) if s.observation == observation and s.aspect == aspect]
            if own:
                counts[row, column], aspects[row, column] = len(own), vectors[own].mean(0)
        undescribed = [n for n, s in enumerate(sentences) if s.observation == observation and s.aspect is None]
        described = aspects[row, counts[row] > 0]
        means[row] = (vectors[undescribed] if len(undescribed) else described).mean(0)
    centred = means - means.mean(0)
    return Aspects(sentences, counts, aspects, centred / np.linalg.norm(centred, axis=1, keepdims=True))
