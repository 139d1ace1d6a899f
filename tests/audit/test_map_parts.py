"""The parts of the audit that look through models: which images an arm is shown, and which grids can be scored."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kdistill.audit.config import AuditConfig
from kdistill.audit.map_tests import MapWork, pointing_part
from kdistill.audit.material import Cases
from kdistill.audit.resampling import PatientBootstrap
from kdistill.audit.rows import AuditRow
from kdistill.explain.student_reader import ReadingSettings, StudentReader
from kdistill.records import Study, StudyImage, Truth
from kdistill.studies.store import IMAGES, MASKS

from ..serve.students import byte_tokenizer
from ..student.small import small_student

NUM = 6


def write_world(folder: Path, size: int) -> Cases:
    """Random films, each with an effusion in its lower right quarter."""
    random = np.random.default_rng(0)
    masks = np.zeros((NUM, size, size), dtype=np.uint8)
    masks[:, size // 2 :, size // 2 :] = 1
    np.save(folder / IMAGES, random.integers(0, 256, (NUM, size, size)).astype(np.uint8))
    np.save(folder / MASKS, masks)
    studies = [
        Study(study_id=f"t{n}", patient_id=f"q{n}", split="test", images=(StudyImage(image_path=f"{n}.png", row=n),))
        for n in range(NUM)
    ]
    truth = {
        s.study_id: Truth(study_id=s.study_id, truth={"Pleural Effusion": 1}, masks={"Pleural Effusion": n})
        for n, s in enumerate(studies)
    }
    return Cases(tuple(studies), truth, ())


def pointing(folder: Path, size: int, *, blanked: bool) -> dict[tuple[str, str], AuditRow]:
    cases = write_world(folder, size)
    settings = ReadingSettings(writes_rationale=False, max_new_tokens=4, blanked=blanked)
    model = small_student(image_size_px=size)
    reader = StudentReader("arm", model, byte_tokenizer(), (0.5,) * 14, settings)
    config = AuditConfig(arm="full", gradient_steps=2, num_bootstrap=100)
    boot = PatientBootstrap(cases.patient_ids, 100, seed=0)
    work = MapWork({"full": [reader]}, cases, config, boot, lambda: None)
    return {(row.test, row.arm): row for row in pointing_part(work, folder)}


def test_the_blank_image_arm_is_audited_on_what_it_is_shown(tmp_path: Path) -> None:
    """Every film is the same grey to it, so every map of an observation is the same, and so is its mass in a mask."""
    seen, blank = (pointing(tmp_path, 32, blanked=blanked) for blanked in (False, True))
    for method in ("", "_gradcam", "_integrated_gradients"):
        interval = blank["mask_mass" + method, "full"].ci95
        assert interval is not None and interval[0] == pytest.approx(interval[1], abs=1e-6)
    other = seen["mask_mass", "full"].ci95
    assert other is not None and other[1] - other[0] > 1e-4


def test_patches_that_do_not_divide_the_image_are_said_not_raised(tmp_path: Path) -> None:
    """36 pixels are 5 patches a side: an audit at the end of a long run must not fall over that."""
    rows = pointing(tmp_path, 36, blanked=False)
    for measure in ("pointing_game", "mask_mass"):
        reason = rows[measure, "full"].reason
        assert reason == "not run: masks of 36 pixels a side do not divide into the students' 5 patches"
