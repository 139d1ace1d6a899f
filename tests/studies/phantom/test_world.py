"""Who gets which findings: prevalence, splits, the shortcut, counterfactual pairs; and the folder on disk."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from kdistill.errors import PolicyError
from kdistill.observations import FINDINGS, OBSERVATIONS
from kdistill.records import Split
from kdistill.studies.phantom.config import PhantomConfig
from kdistill.studies.phantom.plan import VARIANTS, StudyPlan
from kdistill.studies.phantom.world import counterfactual_plans, draw_finding_plan, sample_plans
from kdistill.studies.phantom.write import config_for, write_folder

CONFIG = PhantomConfig(num_train=2000, num_validate=700, num_test=1300, num_pairs=240, seed=9000)


@pytest.fixture(scope="module")
def splits() -> dict[Split, list[StudyPlan]]:
    return sample_plans(CONFIG)


def _rates(plans: list[StudyPlan]) -> dict[str, float]:
    truths = [plan.truth() for plan in plans]
    return {name: float(np.mean([truth[name] for truth in truths])) for name in OBSERVATIONS}


def test_prevalence_is_realistic(splits) -> None:
    rates = _rates(splits["train"])
    assert 0.27 < rates["No Finding"] < 0.34
    assert all(0.05 < rates[name] < 0.21 for name in FINDINGS), rates
    sick = [len(plan.findings) for plan in splits["train"] if not plan.truth()["No Finding"]]
    assert 1.5 < np.mean(sick) < 2.1


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("Atelectasis", "Pleural Effusion"),
        ("Cardiomegaly", "Edema"),
        ("Edema", "Pleural Effusion"),
        ("Fracture", "Pneumothorax"),
    ],
)
def test_findings_go_together_as_in_patients(splits, first: str, second: str) -> None:
    rates = _rates(splits["train"])
    both = np.mean([plan.has(first) and plan.has(second) for plan in splits["train"]])
    assert both > 1.3 * rates[first] * rates[second]


def test_devices_go_with_the_sick(splits) -> None:
    healthy = [plan.has("Support Devices") for plan in splits["train"] if plan.truth()["No Finding"]]
    sick = [plan.has("Support Devices") for plan in splits["train"] if not plan.truth()["No Finding"]]
    assert np.mean(sick) > 3 * np.mean(healthy)


def test_patients_are_in_one_split_and_seeds_are_their_own(splits) -> None:
    plans = [plan for found in splits.values() for plan in found]
    assert len({plan.patient_id for plan in plans}) == len({plan.seed for plan in plans}) == len(plans) == 4000
    seeds = [finding.seed for plan in plans for finding in plan.findings]
    assert len(set(seeds)) == len(seeds)
    assert all(f.variant in VARIANTS[f.observation] for plan in plans for f in plan.findings)
    assert all(len({f.observation for f in plan.findings}) == len(plan.findings) for plan in plans)


def test_the_shortcut_is_tied_in_training_and_validation_and_broken_in_the_test(splits) -> None:
    tied = CONFIG.shortcut_observation
    for split in ("train", "validate"):
        present = [plan.shortcut for plan in splits[split] if plan.has(tied)]
        absent = [plan.shortcut for plan in splits[split] if not plan.has(tied)]
        # n = 90 at least: three standard errors of 0.9 are 0.095
        assert np.mean(present) == pytest.approx(0.9, abs=0.1) and np.mean(absent) == pytest.approx(0.1, abs=0.035)
    rate = np.mean([plan.shortcut for plan in splits["train"]])
    test = splits["test"]
    assert np.mean([plan.shortcut for plan in test]) == pytest.approx(rate, abs=0.035)
    gap = np.mean([p.shortcut for p in test if p.has(tied)]) - np.mean([p.shortcut for p in test if not p.has(tied)])
    assert abs(gap) < 0.115  # three standard errors at n = 165 and 1135


def test_no_other_finding_carries_the_tag_in_the_test(splits) -> None:
    tags = np.array([plan.shortcut for plan in splits["test"]], dtype=float)
    for name in FINDINGS:
        has = np.array([plan.has(name) for plan in splits["test"]], dtype=float)
        assert abs(np.corrcoef(tags, has)[0, 1]) < 0.1  # 3.6 standard errors at n = 1300


def test_sampling_is_deterministic_and_does_not_depend_on_numbers(splits) -> None:
    again = sample_plans(CONFIG.model_copy(update={"num_train": 40, "num_validate": 5}))
    assert again["train"] == splits["train"][:40] and again["validate"] == splits["validate"][:5]
    other = sample_plans(CONFIG.model_copy(update={"seed": 9001, "num_train": 5, "num_validate": 1, "num_test": 1}))
    assert other["train"] != splits["train"][:5]


def test_pairs_differ_in_one_thing(splits) -> None:
    pairs = counterfactual_plans(splits["test"], CONFIG)
    assert pairs == counterfactual_plans(splits["test"], CONFIG)
    kinds = [kind for kind, *_ in pairs]
    assert {kind: kinds.count(kind) for kind in set(kinds)} == {"removed": 60, "added": 60, "moved": 60, "shortcut": 60}
    test_ids = {plan.study_id for plan in splits["test"]}
    for kind, name, before, after in pairs:
        assert before.study_id == after.study_id and before.study_id in test_ids and before.seed == after.seed
        assert (before.shortcut != after.shortcut) == (kind == "shortcut")
        others = [tuple(f for f in plan.findings if f.observation != name) for plan in (before, after)]
        assert others[0] == others[1]
        assert (before.has(name), after.has(name)) == {
            "removed": (True, False),
            "added": (False, True),
            "moved": (True, True),
            "shortcut": (before.has(name), before.has(name)),
        }[kind]
    moved = [(b.findings, a.findings) for kind, _, b, a in pairs if kind == "moved"]
    assert all(len([1 for x, y in zip(b, a, strict=True) if x.side != y.side]) == 1 for b, a in moved)
    assert {name for kind, name, *_ in pairs if kind == "removed"} == set(FINDINGS)


def test_severe_blunting_does_not_occur() -> None:
    plans = [draw_finding_plan(seed, "Pleural Effusion") for seed in range(400)]
    assert {p.severity for p in plans if p.variant == "blunting"} == {"mild", "moderate"}


def test_an_unknown_shortcut_observation_is_refused() -> None:
    with pytest.raises(ValidationError, match="must be one of"):
        PhantomConfig(shortcut_observation="Edemma")


def _grey(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.mode == "L"
        return np.asarray(image)


def test_folder_has_the_plain_layout(tmp_path: Path) -> None:
    config = config_for(10, seed=9003, size_px=64).model_copy(update={"num_pairs": 8})
    out = tmp_path / "phantom"
    assert write_folder(out, config, pairs=True) == 10
    with (out / "studies.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["split"] for row in rows].count("train") == 7 and len(rows) == 10
    for row in rows:
        assert _grey(out / row["image_path"]).shape == (64, 64)
        assert row["findings"] or row["impression"]
        for name in FINDINGS:
            assert (row[f"truth:{name}"] == "1") == bool(row[f"mask:{name}"])
            if row[f"mask:{name}"]:
                assert set(np.unique(_grey(out / row[f"mask:{name}"]))) == {0, 255}
    with (out / "pairs.csv").open(encoding="utf-8", newline="") as file:
        pairs = list(csv.DictReader(file))
    assert pairs and all((out / row["before_path"]).exists() and (out / row["after_path"]).exists() for row in pairs)


def test_folder_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "kept.txt").write_text("kept", encoding="utf-8")
    with pytest.raises(PolicyError, match="is not empty"):
        write_folder(tmp_path, config_for(2, seed=9004, size_px=32))
