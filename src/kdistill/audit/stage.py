"""The audit stage: published students, studies, rationales, literature -> audit.json."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from kdistill.artifact import StageWriter
from kdistill.audit.alignment import alignment_rows, load_readings
from kdistill.audit.citations import citation_rows, coverage_rows, library, load_rationales
from kdistill.audit.config import AuditConfig, AuditPart
from kdistill.audit.consistency import consistency_rows
from kdistill.audit.counterfactual import counterfactual_rows
from kdistill.audit.laterality import laterality_rows
from kdistill.audit.material import Cases, PairSaid, Said, TextReader, load_cases, load_pair_said, load_said
from kdistill.audit.resampling import PatientBootstrap
from kdistill.audit.rows import AuditRow, not_run
from kdistill.audit.shortcut import shortcut_rows
from kdistill.audit.swap import Known, swap_row
from kdistill.observations import OBSERVATIONS

if TYPE_CHECKING:
    from kdistill.audit.map_tests import MapWork

logger = logging.getLogger(__name__)

AUDIT: Final = "audit.json"
Progress = Callable[[int, int], None]
Students = Mapping[tuple[str, int], Path]


def build_audit(
    stage: StageWriter,
    config: AuditConfig,
    *,
    students: Students,
    studies_dir: Path,
    rationales_dir: Path,
    literature_dir: Path,
    on_progress: Progress | None = None,
) -> None:
    """Run every test of METHOD section 7 on every arm and write audit.json. Reads truth, which no student does.

    Args:
        stage: Where to write.
        config: What to run.
        students: (arm, seed) -> published student folder.
        studies_dir: The studies stage (truth, masks and pairs where the data have them).
        rationales_dir: The rationales stage.
        literature_dir: The literature stage.
        on_progress: (steps done, steps).

    Raises:
        InputError: A published file is missing or damaged.
    """
    audit = _Audit(config, students, studies_dir, rationales_dir, literature_dir, on_progress)
    rows = [row for part in ALL_PARTS for row in audit.part(part)]
    text = json.dumps([row.model_dump(mode="json") for row in rows], indent=1, ensure_ascii=False)
    with (stage.dir / AUDIT).open("w", encoding="utf-8") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())
    stage.count("rows", len(rows))
    stage.count("rows_not_run", sum(row.value is None for row in rows))
    stage.count("passed", sum(row.passed is True for row in rows))
    stage.count("failed", sum(row.passed is False for row in rows))


ALL_PARTS: Final[tuple[AuditPart, ...]] = (
    *("counterfactual", "shortcut", "laterality", "swap", "pointing", "randomisation", "consistency"),
    *("citations", "alignment"),
)


class _Audit:
    """The material, read once, and the parts that are run on it."""

    def __init__(
        self,
        config: AuditConfig,
        students: Students,
        studies_dir: Path,
        rationales_dir: Path,
        literature_dir: Path,
        on_progress: Progress | None,
    ) -> None:
        self.config, self.students, self.studies_dir = config, students, studies_dir
        self.rationales_dir, self.literature_dir = rationales_dir, literature_dir
        self._on_progress, self._done = on_progress, 0
        self._total = 3 * len(students) + len(ALL_PARTS)
        self.cases: Cases = load_cases(studies_dir)
        self.texts = TextReader()
        self.said: dict[str, list[Said]] = {}
        self.pair_said: dict[str, list[PairSaid] | None] = {}
        self._read_students()
        self.boot = PatientBootstrap(self.cases.patient_ids, config.num_bootstrap, config.seed)

    def step(self) -> None:
        """Some piece of work is done."""
        self._done += 1
        if self._on_progress is not None:
            self._on_progress(min(self._done, self._total), self._total)

    def _read_students(self) -> None:
        ids = [study.study_id for study in self.cases.studies]
        for (arm, _), path in sorted(self.students.items()):
            self.said.setdefault(arm, []).append(load_said(path, ids, self.texts))
            pairs, known = load_pair_said(path, self.cases.pairs, self.texts), self.pair_said.setdefault(arm, [])
            if pairs is None or known is None:
                self.pair_said[arm] = None
            else:
                known.append(pairs)
            self.step()

    def known(self) -> Known | None:
        """What is known of the test studies: truth, else their reports' labels (U+), else nothing."""
        truth = self.cases.truth_matrix()
        if truth is not None:
            return Known(truth, np.ones(len(truth), dtype=bool))
        reported = np.array([bool(study.report.strip()) for study in self.cases.studies])
        if not reported.any():
            return None
        states = self.texts.states([study.report for study in self.cases.studies])
        return Known(np.isin(states, (1, -1)).reshape(-1, len(OBSERVATIONS)), reported)

    def part(self, part: AuditPart) -> Iterator[AuditRow]:
        """All rows of one part; one row that says so where it is left out, or has no study to be run on."""
        if part not in self.config.parts:
            yield not_run(part, self.config.arm, "left out by the recipe (audit.parts)")
        elif not self.cases.studies or not self.students:
            yield not_run(part, self.config.arm, "no test study" if self.students else "no student")
        else:
            yield from self._run(part)
        self.step()

    def _run(self, part: AuditPart) -> Iterator[AuditRow]:
        match part:
            case "counterfactual":
                for arm, pairs in self.pair_said.items():
                    yield from counterfactual_rows(arm, pairs, self.said[arm], self.cases, self.boot, self.texts)
            case "shortcut":
                yield from shortcut_rows(self.pair_said, self.cases, self.boot, self.config)
            case "laterality":
                for arm, seeds in self.said.items():
                    yield from laterality_rows(arm, seeds, self.cases, self.boot, self.texts)
            case "consistency":
                for arm, seeds in self.said.items():
                    yield from consistency_rows(arm, seeds, self.cases, self.boot)
            case "citations":
                rationales, articles = load_rationales(self.rationales_dir), library(self.literature_dir)
                yield from citation_rows(rationales, articles)
                yield from coverage_rows(self.said, rationales, articles, self.cases, self.boot)
            case "alignment":
                yield from alignment_rows(self.students, load_readings(self.rationales_dir), self.config)
            case "swap" | "pointing" | "randomisation":
                yield from self._run_models(part)

    @cached_property
    def _work(self) -> MapWork:
        """Every trained student, loaded once."""
        from kdistill.audit.map_tests import MapWork, load_readers

        return MapWork(load_readers(self.students), self.cases, self.config, self.boot, self.step)

    def _run_models(self, part: AuditPart) -> Iterator[AuditRow]:
        """The parts that load students: imported here, so that the other parts do without torch's models."""
        from kdistill.audit.map_tests import constant_part, pointing_part, randomisation_part

        work = self._work
        match part:
            case "swap":
                for arm, seeds in self.said.items():
                    yield swap_row(arm, seeds, self.known(), self.cases, self.boot)
                yield from constant_part(work, self.said, self.known(), self.texts)
            case "pointing":
                yield from pointing_part(work, self.studies_dir)
            case "randomisation":
                yield from randomisation_part(work, self.studies_dir)
