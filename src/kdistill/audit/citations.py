"""Are the citations real: in the library, not retracted, and verbatim? And how much of what students write has one?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np

from kdistill.audit.material import Cases, Said
from kdistill.audit.resampling import Fraction, PatientBootstrap, fraction, value_of
from kdistill.audit.rows import AuditRow, measured, not_run
from kdistill.evaluation.bootstrap import Estimate
from kdistill.explain.citations import CitationLookup, load_articles
from kdistill.explain.config import ExplainConfig
from kdistill.explain.sentences import assign_sentences
from kdistill.records import Article, Citation, Rationale, read_jsonl

TEACHER = "teacher"
TESTS = ("citations_in_library", "citations_not_retracted", "citations_verbatim")
SentenceCited = Callable[[str, str | None], bool]


def load_rationales(rationales_dir: Path) -> list[Rationale]:
    """The accepted rationales; empty where the stage wrote none."""
    path = rationales_dir / "rationales.jsonl"
    return list(read_jsonl(path, Rationale)) if path.is_file() else []


def citation_rows(rationales: Sequence[Rationale], articles: Mapping[str, Article]) -> Iterator[AuditRow]:
    """Check every citation of every accepted rationale against the library (no interval: it is a full count)."""
    found = [c for r in rationales for e in r.entries for c in e.citations]
    if not found:
        yield from (not_run(test, TEACHER, "the rationales cite nothing") for test in TESTS)
        return
    known = [c for c in found if c.article_id in articles]
    yield _counted("citations_in_library", len(known), len(found))
    yield _counted("citations_not_retracted", sum(not articles[c.article_id].retracted for c in known), len(known))
    plain = cache(_plain)
    verbatim = sum(_is_verbatim(c, articles[c.article_id], plain) for c in known)
    yield _counted("citations_verbatim", verbatim, len(found))


def _is_verbatim(citation: Citation, article: Article, plain: Callable[[str], str]) -> bool:
    quote = plain(citation.quote)
    return bool(quote) and (quote in plain(article.text) or quote in plain(article.title))


def _plain(text: str) -> str:
    """White space as the source broke it says nothing."""
    return " ".join(text.split())


def _counted(test: str, good: int, total: int) -> AuditRow:
    if total == 0:
        return not_run(test, TEACHER, "no citation to check")
    value = Estimate(good / total)
    return measured(test, TEACHER, value, n=total, rule=("at_least", 1.0), baseline=None, reason=f"{total - good} fail")


def coverage_rows(
    said: Mapping[str, Sequence[Said]],
    rationales: Sequence[Rationale],
    articles: Mapping[str, Article],
    cases: Cases,
    boot: PatientBootstrap,
) -> Iterator[AuditRow]:
    """Share of a student's literature sentences for which the look-up finds a citation, every arm."""
    quotes = [(e.observation, c) for r in rationales for e in r.entries for c in e.citations]
    lookup = CitationLookup(dict.fromkeys(quotes), articles, ExplainConfig())

    @cache
    def cited(sentence: str, observation: str | None) -> bool:
        return lookup.find(sentence, observation) is not None

    own = value_of([coverage([r.study_id for r in rationales], [r.text for r in rationales], cited)])
    patients = [study.patient_id for study in cases.studies]
    for arm, seeds in said.items():
        if any("rationale" not in s.texts for s in seeds):
            yield not_run("citation_coverage", arm, "this arm writes no rationale")
            continue
        parts = [coverage(patients, s.texts["rationale"], cited) for s in seeds]
        n = round(float(np.mean([p.denominator.sum() for p in parts])))
        reason = "share of sentences other than statements that a source is found for; baseline: the teacher's own"
        yield measured("citation_coverage", arm, boot.ratio(parts), n=n, baseline=own, reason=reason)


def coverage(patient_ids: Sequence[str], texts: Sequence[str], cited: SentenceCited) -> Fraction:
    """Cited and all sentences of each rationale that are no statements."""
    counts = []
    for text in texts:
        others = [s for s in assign_sentences(text) if not s.is_statement]
        counts.append((sum(cited(s.text, s.fact.observation if s.fact else None) for s in others), len(others)))
    table = np.asarray(counts, dtype=np.float64).reshape(-1, 2)
    return fraction(patient_ids, table[:, 0], table[:, 1])


def library(literature_dir: Path) -> Mapping[str, Article]:
    """The articles that may be cited."""
    return load_articles(literature_dir)
