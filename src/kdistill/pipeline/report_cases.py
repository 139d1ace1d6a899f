"""Studies and pairs that the report shows: which ones (by a rule, not by hand), and how."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from kdistill.audit.material import TextReader, read_parquet
from kdistill.explain.build import explain
from kdistill.explain.explanation import Explanation
from kdistill.explain.html import text
from kdistill.explain.page import rationale_section
from kdistill.explain.pictures import blended, png_uri, where_peak
from kdistill.explain.reading import ImageReader, Reading
from kdistill.explain.run import load_context
from kdistill.explain.student_reader import load_reader
from kdistill.observations import FINDINGS, INDEX
from kdistill.pipeline.report_files import RunFiles
from kdistill.pipeline.report_tables import missing
from kdistill.records import CounterfactualPair, Study
from kdistill.studies import store

NUM_WRONG, NUM_RIGHT, NUM_MAPS = 5, 5, 3
#: How many pairs of each kind are shown.
PAIRS_SHOWN: Final = (("removed", 2), ("added", 1), ("moved", 2), ("shortcut", 1))
_OUTLINE: Final = (255, 122, 69)


@dataclass(frozen=True)
class Case:
    """A test study, what is known of it, and what the student's report states (13 findings, U+)."""

    study: Study
    known: frozenset[str]
    stated: frozenset[str]

    @property
    def is_wrong(self) -> bool:
        """Whether the report misses or invents a finding."""
        return self.known != self.stated


def order_key(run_name: str, item_id: str) -> str:
    """A fixed shuffle: nobody chooses what is shown."""
    return hashlib.sha256(f"{run_name}:{item_id}".encode()).hexdigest()


def main_student(run: RunFiles) -> tuple[str, int, Path] | None:
    """The student that the report shows at work: `full` if there is one, else the first arm with a model."""
    trained = [(arm, seed, path) for (arm, seed), path in run.students.items() if (path / "model").is_dir()]
    return min(trained, key=lambda item: (item[0] != "full", item[0], item[1]), default=None)


def choose_cases(cases: Sequence[Case], run_name: str) -> list[Case]:
    """The first five wrong and the first five right ones of a fixed shuffle, wrong ones first.

    Right ones that show a finding come before normal ones: the latter are right by saying nothing.
    """
    shuffled = sorted(cases, key=lambda case: order_key(run_name, case.study.study_id))
    wrong = [case for case in shuffled if case.is_wrong]
    right = sorted((case for case in shuffled if not case.is_wrong), key=lambda case: not case.known)
    return wrong[:NUM_WRONG] + right[:NUM_RIGHT]


def load_known(run_dir: Path, studies: Sequence[Study], texts: TextReader) -> tuple[dict[str, frozenset[str]], str]:
    """Findings known of test studies, by study_id, and where that knowledge comes from."""
    lines = store.load_truth(run_dir / "studies") or {}
    truth = {study_id: line for study_id, line in lines.items() if line.truth}  # a line may hold regions only
    if truth:
        found = {s.study_id: truth[s.study_id].truth for s in studies if s.study_id in truth}
        return {k: frozenset(o for o in FINDINGS if v.get(o)) for k, v in found.items()}, "ground truth"
    labels = {s.study_id: s.labels or (texts.label(s.report) if s.report else None) for s in studies}
    known = {k: frozenset(o for o in FINDINGS if v.get(o) in (1, -1)) for k, v in labels.items() if v is not None}
    return known, "labels of the data set or its report"


def explained_studies(run: RunFiles, run_name: str) -> str:
    """Ten test studies, five of them wrong ones, as HTML."""
    main = main_student(run)
    if main is None or not (run.run_dir / "studies" / store.STUDIES).is_file():
        return missing("no trained student")
    arm, seed, path = main
    studies = store.load_studies(run.run_dir / "studies", "test")
    texts = TextReader()
    known, source = load_known(run.run_dir, studies, texts)
    said = {row["study_id"]: row for row in read_parquet(path / "predictions.parquet")}
    cases = [
        Case(study, known[study.study_id], _stated(said[study.study_id], texts))
        for study in studies
        if study.study_id in known and study.study_id in said
    ]
    chosen = choose_cases(cases, run_name)
    if not chosen:
        return missing("no test study of which anything is known")
    reader = load_reader(path)
    context = load_context(run.run_dir, reader.name, reader.thresholds)
    images = store.load_images(run.run_dir / "studies")
    pixels = np.stack([images[case.study.images[0].row] for case in chosen])
    masks = _masks_of(run.run_dir, [case.study.study_id for case in chosen])
    blocks = [
        _study_block(case, explain(case.study.study_id, image, reading, context), image, masks)
        for case, image, reading in zip(chosen, pixels, _readings(reader, pixels, chosen, said), strict=True)
    ]
    wrong = sum(case.is_wrong for case in cases)
    lead = (
        f"Arm {arm}, seed {seed}. The first {NUM_WRONG} wrong and the first {NUM_RIGHT} right ones in a fixed shuffle "
        "of the test set (nobody chose them; of the right ones, those that show a finding first). "
        f"{wrong} of {len(cases)} reports are wrong in at least one of 13 findings, against {source}. "
        "Outline: where the finding really is, where known."
    )
    return f'<p class="hint">{text(lead)}</p>{"".join(blocks)}'


def _readings(
    reader: ImageReader, pixels: NDArray[np.uint8], chosen: Sequence[Case], said: Mapping[str, dict[str, Any]]
) -> Iterator[Reading]:
    """What was published in predictions.parquet; the model adds the evidence maps, which are not stored there."""
    for case, reading in zip(chosen, reader.read(pixels), strict=True):
        row = said[case.study.study_id]
        texts: dict[str, Any] = {key: row[key] or "" for key in ("findings", "impression", "rationale")}
        if row["probabilities"] is None:
            yield replace(reading, **texts)
        else:
            yield replace(reading, probabilities=np.asarray(row["probabilities"], dtype=np.float64), **texts)


def _stated(row: dict[str, Any], texts: TextReader) -> frozenset[str]:
    labels = texts.label("\n".join(part for part in (row["findings"], row["impression"]) if part))
    return frozenset(o for o in FINDINGS if labels[o] in (1, -1))


def _masks_of(run_dir: Path, study_ids: Sequence[str]) -> dict[tuple[str, str], NDArray[np.uint8]]:
    truth, masks = store.load_truth(run_dir / "studies"), store.load_masks(run_dir / "studies")
    if not truth or masks is None:
        return {}
    return {
        (study_id, name): np.asarray(masks[row])
        for study_id in study_ids
        if study_id in truth
        for name, row in truth[study_id].masks.items()
    }


def _study_block(
    case: Case,
    explanation: Explanation,
    image: NDArray[np.uint8],
    masks: dict[tuple[str, str], NDArray[np.uint8]],
) -> str:
    verdict = "wrong" if case.is_wrong else "right"
    figures = [f'<figure><img src="{png_uri(image)}" alt="Chest X-ray"><figcaption>X-ray</figcaption></figure>']
    figures += _map_figures(case, explanation, image, masks)
    flags = "".join(f"<li>{text(f.observation or '')} {text(f.text)}</li>" for f in explanation.flags[:4])
    more = f"<li>and {len(explanation.flags) - 4} more</li>" if len(explanation.flags) > 4 else ""
    checks = f"<details><summary>{len(explanation.flags)} checks object</summary><ul>{flags}{more}</ul></details>"
    return (
        f'<article class="case {verdict}"><h3><span class="verdict">{verdict}</span> study '
        f'<span class="mono">{text(case.study.study_id)}</span></h3>{_chips(case)}'
        f'<div class="case-body"><div class="figures">{"".join(figures)}</div><div class="texts">'
        f"{_reports(case, explanation)}{rationale_section(explanation.rationale)}</div></div>"
        f"{checks if explanation.flags else ''}</article>"
    )


def _chips(case: Case) -> str:
    groups = (
        ("found", sorted(case.known & case.stated)),
        ("missed", sorted(case.known - case.stated)),
        ("invented", sorted(case.stated - case.known)),
    )
    chips = "".join(
        f'<span class="chip {kind}">{kind}: {text(", ".join(names))}</span>' for kind, names in groups if names
    )
    return f'<p class="chips">{chips or "<span class=chip>nothing to find, nothing stated</span>"}</p>'


def _reports(case: Case, explanation: Explanation) -> str:
    own = case.study.report or "(this study has no report)"
    said = " ".join(part for part in (explanation.findings, explanation.impression) if part) or "(empty)"
    return (
        f'<section aria-label="Reports"><h2>Report by the student</h2><p>{text(said)}</p>'
        f"<h2>The study’s own report</h2><p>{text(own)}</p></section>"
    )


def _map_figures(
    case: Case, explanation: Explanation, image: NDArray[np.uint8], masks: dict[tuple[str, str], NDArray[np.uint8]]
) -> Iterator[str]:
    """Maps of what is there or is said to be there, the likeliest first."""
    relevant = [
        item
        for item in explanation.observations
        if item.evidence_map is not None
        and (item.name in case.known | case.stated or (item.state == "present" and item.name in FINDINGS))
    ]
    relevant.sort(key=lambda item: (item.name not in case.known | case.stated, -(item.probability or 0.0)))
    for item in relevant[:NUM_MAPS] or [o for o in explanation.observations if o.evidence_map is not None][:1]:
        grid = np.asarray(item.evidence_map)
        mask = masks.get((case.study.study_id, item.name))
        painted = blended(image, grid)
        uri = png_uri(painted if mask is None else outlined(painted, mask))
        place = where_peak(grid, is_side_doubtful=explanation.is_side_doubtful)
        number = "" if item.probability is None else f" {item.probability:.2f} (threshold {item.threshold:.2f})"
        yield (
            f'<figure><img src="{uri}" alt="Evidence map of {text(item.name)}"><figcaption>'
            f"<strong>{text(item.name)}</strong>{number}<br>{text(place)}</figcaption></figure>"
        )


def _edge(mask: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Pixels of a mask that touch its outside."""
    inside = np.pad(mask.astype(bool), 1)
    core = inside[:-2, 1:-1] & inside[2:, 1:-1] & inside[1:-1, :-2] & inside[1:-1, 2:]
    return mask.astype(bool) & ~core


def pair_section(run: RunFiles, run_name: str) -> str:
    """Counterfactual pairs: before, after, what the student said about each."""
    studies_dir, main = run.run_dir / "studies", main_student(run)
    pairs, images = store.load_pairs(studies_dir), store.load_pair_images(studies_dir)
    if not pairs or images is None:
        return missing("the data have no counterfactual pairs")
    if main is None or not (main[2] / "pair_predictions.parquet").is_file():
        return missing("no student has predictions for the pairs")
    rows = {(r["pair_id"], r["which"]): r for r in read_parquet(main[2] / "pair_predictions.parquet")}
    masks = store.load_pair_masks(studies_dir)
    shown = [pair for kind, count in PAIRS_SHOWN for pair in _first(pairs, kind, count, run_name)]
    blocks = [
        _pair_block(pair, images, masks, rows[pair.pair_id, "before"], rows[pair.pair_id, "after"])
        for pair in shown
        if (pair.pair_id, "before") in rows and (pair.pair_id, "after") in rows
    ]
    lead = f"Arm {main[0]}, seed {main[1]}; the first pairs of each kind in a fixed shuffle. Outline: what was changed."
    return f'<p class="hint">{text(lead)}</p><div class="pairs">{"".join(blocks)}</div>'


def _first(pairs: Sequence[CounterfactualPair], kind: str, count: int, run_name: str) -> list[CounterfactualPair]:
    found = [pair for pair in pairs if pair.kind == kind]
    return sorted(found, key=lambda pair: order_key(run_name, pair.pair_id))[:count]


def _pair_block(
    pair: CounterfactualPair,
    images: NDArray[np.uint8],
    masks: NDArray[np.uint8] | None,
    before: dict[str, Any],
    after: dict[str, Any],
) -> str:
    mask = None if masks is None or pair.mask_row is None else np.asarray(masks[pair.mask_row])
    halves = []
    for title, row, said in (("Before", pair.before_row, before), ("After", pair.after_row, after)):
        image = np.asarray(images[row])
        uri = png_uri(image if mask is None else outlined(image, mask))
        report = " ".join(part for part in (said["findings"], said["impression"]) if part) or "(empty)"
        halves.append(
            f'<figure><img src="{uri}" alt="{title}"><figcaption><strong>{title}</strong>{_probability(pair, said)}'
            f"</figcaption></figure><p>{text(report)}</p>"
        )
    what = "the shortcut toggled" if pair.kind == "shortcut" else f"{pair.kind}"
    cells = "".join(f"<div>{half}</div>" for half in halves)
    title = f"<h3>{text(pair.observation)}: {text(what)}</h3>"
    return f'<article class="pair">{title}<div class="halves">{cells}</div></article>'


def _probability(pair: CounterfactualPair, said: dict[str, Any]) -> str:
    if said["probabilities"] is None:
        return ""
    return f" · {text(pair.observation)} {said['probabilities'][INDEX[pair.observation]]:.2f}"


def outlined(image: NDArray[np.uint8], mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Draw the edge of a mask into an image, grey [S, S] or coloured [S, S, 3]: uint8 [S, S, 3]."""
    colour = np.repeat(image[..., None], 3, axis=-1) if image.ndim == 2 else image.copy()
    colour[_edge(mask)] = _OUTLINE
    return colour
