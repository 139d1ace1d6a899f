"""What `data check` says of reports: absent, unreadable, repeated, and the same in the test and in training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Final

import numpy as np

from kdistill.labelers.language import is_english, is_placeholder_only
from kdistill.pipeline.data_check_places import listed
from kdistill.studies.sources.common import SourceStudy

_LONG_REPORT: Final = 20_000
#: Words below which a report can hardly state a finding with its place.
_SHORT_WORDS: Final = 3
#: A report that so many studies share, and this share of all reports, is a template worth knowing of.
_REPEATED_STUDIES, _REPEATED_SHARE = 10, 0.02


def report_warnings(items: list[SourceStudy], places: dict[str, str]) -> list[str]:
    """Sentences on the reports of all studies; a data set without any report gets one sentence."""
    with_text = [item for item in items if item.study.report]
    if not with_text:
        return ["no study has a report: reports and rationales cannot be learned from this data set alone"]
    kinds: tuple[tuple[str, Callable[[str], bool]], ...] = (
        ("have a report of placeholders (___) only", is_placeholder_only),
        ("have a report that is not English", _is_foreign),
        (f"have a report longer than {_LONG_REPORT} characters", lambda text: len(text) > _LONG_REPORT),
        (f"have a report of fewer than {_SHORT_WORDS} words", _is_short),
    )
    found = []
    missing = [item for item in items if not item.study.report]
    if missing:
        found.append(_sentence(missing, len(items), "have no report", places))
    for words, applies in kinds:
        here = [item for item in with_text if applies(item.study.report)]
        if here:
            found.append(_sentence(here, len(items), words, places))
    return [*found, *_repeated(with_text), *_test_equals_training(with_text)]


def _sentence(here: list[SourceStudy], total: int, words: str, places: dict[str, str]) -> str:
    where = [places[str(item.images[0].path)] for item in here if item.images]
    return f"{len(here)} of {total} studies {words}: {listed(where[:10])}" + (" ..." if len(where) > 10 else "")


def _is_foreign(report: str) -> bool:
    return not is_placeholder_only(report) and not is_english(report.lower())


def _is_short(report: str) -> bool:
    return not is_placeholder_only(report) and len(report.split()) < _SHORT_WORDS


def _wording(item: SourceStudy) -> str:
    return " ".join(item.study.report.lower().split())


def _repeated(items: list[SourceStudy]) -> list[str]:
    counts = Counter(_wording(item) for item in items)
    num_studies = counts.most_common(1)[0][1]
    if num_studies < max(_REPEATED_STUDIES, _REPEATED_SHARE * len(items)):
        return []
    num_shared = sum(count for count in counts.values() if count > 1)
    return [
        f"{num_shared} of {len(items)} reports share their wording with another study; the most frequent one stands in "
        f"{num_studies} studies: a model is rewarded for writing it always"
    ]


def _test_equals_training(items: list[SourceStudy]) -> list[str]:
    training = {_wording(item) for item in items if item.study.split == "train"}
    test = [item for item in items if item.study.split == "test"]
    equal = sum(_wording(item) in training for item in test)
    if not equal:
        return []
    return [
        f"{equal} of {len(test)} test reports stand word for word in training too: text scores on them reward memory "
        "(usual for normal templates; a leak if they are long)"
    ]


def report_lengths(items: list[SourceStudy]) -> dict[str, dict[str, int]]:
    """split -> number of reports and, in words, the shortest, the median, the 95th percentile and the longest."""
    found: dict[str, dict[str, int]] = {}
    for split in ("train", "validate", "test"):
        words = np.array([len(i.study.report.split()) for i in items if i.study.split == split and i.study.report])
        if len(words):
            low, middle, high, top = np.percentile(words, [0, 50, 95, 100])
            found[split] = {
                "reports": len(words),
                "shortest, words": round(low),
                "median": round(middle),
                "95th percentile": round(high),
                "longest": round(top),
            }
    return found
