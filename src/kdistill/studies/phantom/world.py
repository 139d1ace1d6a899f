"""Who the phantom patients are: complaints, findings that go together, devices, the shortcut, counterfactual twins."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from kdistill.observations import FINDINGS, SUPPORT_DEVICES
from kdistill.records import PairKind, Severity, Side, Split, Zone
from kdistill.studies.phantom.config import PhantomConfig
from kdistill.studies.phantom.plan import VARIANTS, FindingPlan, StudyPlan
from kdistill.studies.phantom.render import render_many

__all__ = [
    "PairPlan",
    "counterfactual_plans",
    "draw_finding_plan",
    "plans_of_test_study",
    "render_many",
    "sample_plans",
]

T = TypeVar("T", bound=str)

#: (kind, observation, before, after)
PairPlan = tuple[PairKind, str, StudyPlan, StudyPlan]

#: Complaint -> (share of the sick, probability of each finding). Chosen for clinical plausibility (heart failure brings
#: a large heart, edema and effusions; collapse and effusion go together; trauma breaks ribs and lets air in) and so
#: that each of the 13 observations occurs in 6 to 18% of studies; not fitted to any data set.
_COMPLAINTS: Final[Mapping[str, tuple[float, Mapping[str, float]]]] = MappingProxyType(
    {
        "failure": (0.22, {"Edema": 0.74, "Cardiomegaly": 0.60, "Pleural Effusion": 0.42, "Lung Opacity": 0.06}),
        "infection": (
            0.22,
            {
                "Pneumonia": 0.56,
                "Consolidation": 0.44,
                "Lung Opacity": 0.18,
                "Pleural Effusion": 0.14,
                "Atelectasis": 0.06,
            },
        ),
        "collapse": (
            0.14,
            {"Atelectasis": 0.78, "Pleural Effusion": 0.38, "Lung Opacity": 0.14, "Consolidation": 0.08},
        ),
        "trauma": (
            0.14,
            {"Fracture": 0.66, "Pneumothorax": 0.55, "Pleural Effusion": 0.08, "Atelectasis": 0.08},
        ),
        "tumour": (
            0.12,
            {
                "Lung Lesion": 0.72,
                "Enlarged Cardiomediastinum": 0.24,
                "Pleural Effusion": 0.12,
                "Atelectasis": 0.10,
                "Pneumothorax": 0.06,
            },
        ),
        "chronic": (
            0.11,
            {"Pleural Other": 0.68, "Lung Opacity": 0.30, "Cardiomegaly": 0.16, "Lung Lesion": 0.08, "Fracture": 0.08},
        ),
        "aorta": (0.075, {"Enlarged Cardiomediastinum": 0.84, "Cardiomegaly": 0.35, "Pleural Effusion": 0.06}),
    }
)
_DEVICE_SHARE: Final[Mapping[str, float]] = MappingProxyType(
    {
        "failure": 0.30,
        "infection": 0.20,
        "collapse": 0.34,
        "trauma": 0.26,
        "tumour": 0.10,
        "chronic": 0.08,
        "aorta": 0.14,
    }
)
_HEALTHY_DEVICE_SHARE: Final = 0.04
_SEVERITIES: Final[tuple[tuple[Severity, float], ...]] = (("mild", 0.33), ("moderate", 0.40), ("severe", 0.27))

_LEFT_RIGHT: Final[tuple[tuple[Side, float], ...]] = (("left", 0.48), ("right", 0.52))
_ANY_SIDE: Final[tuple[tuple[Side, float], ...]] = (("left", 0.38), ("right", 0.40), ("bilateral", 0.22))
_ALL_ZONES: Final[tuple[tuple[Zone, float], ...]] = (("upper", 0.30), ("middle", 0.28), ("lower", 0.42))

#: Variant -> (share among the variants of its observation, sides, zones); empty: not said and not needed.
_PLACES: Final[Mapping[str, tuple[float, tuple[tuple[Side, float], ...], tuple[tuple[Zone, float], ...]]]] = (
    MappingProxyType(
        {
            "wide_mediastinum": (1.0, (), ()),
            "large_heart": (1.0, (), ()),
            "nodule": (0.55, _LEFT_RIGHT, _ALL_ZONES),
            "mass": (0.45, _LEFT_RIGHT, _ALL_ZONES),
            "ground_glass": (1.0, _ANY_SIDE, _ALL_ZONES),
            "bat_wing": (0.55, (("bilateral", 1.0),), ()),
            "interstitial": (0.45, (("bilateral", 1.0),), ()),
            "lobar": (1.0, _LEFT_RIGHT, _ALL_ZONES),
            "patchy": (1.0, _ANY_SIDE, _ALL_ZONES),
            "band": (0.55, _ANY_SIDE, (("middle", 0.3), ("lower", 0.7))),
            "volume_loss": (0.45, _LEFT_RIGHT, (("upper", 0.35), ("lower", 0.65))),
            "visceral_line": (1.0, _LEFT_RIGHT, ()),
            "meniscus": (0.72, _ANY_SIDE, ()),
            "blunting": (0.28, _ANY_SIDE, ()),
            "apical_cap": (0.5, _ANY_SIDE, (("upper", 1.0),)),
            "plaque": (0.5, _ANY_SIDE, ()),
            "rib": (1.0, _LEFT_RIGHT, _ALL_ZONES),
            "endotracheal_tube": (0.34, (), ()),
            "central_line": (0.40, _LEFT_RIGHT, ()),
            "pacemaker": (0.26, (("left", 1.0),), ()),
        }
    )
)
#: The second word of each seed sequence: one stream of random numbers for one purpose.
_PATIENT, _FINDING, _TAG, _PAIRS = 101, 102, 103, 104
_SPLITS: Final[tuple[Split, ...]] = ("train", "validate", "test")


def sample_plans(config: PhantomConfig) -> dict[Split, list[StudyPlan]]:
    """Draw all studies, one patient each, so that splits never share a patient.

    Study k of a split is the same whatever the number of studies. In "train" and "validate" the tag goes with
    `shortcut_observation`; in "test" it is independent of all findings, at the rate found in training.
    """
    numbers = {"train": config.num_train, "validate": config.num_validate, "test": config.num_test}
    plans = {split: [_draw_study(config, split, index) for index in range(numbers[split])] for split in _SPLITS}
    rate = float(np.mean([plan.shortcut for plan in plans["train"]]))
    plans["test"] = [replace(plan, shortcut=_tag_draw(config, plan) < rate) for plan in plans["test"]]
    return plans


def plans_of_test_study(config: PhantomConfig, index: int) -> tuple[StudyPlan, StudyPlan]:
    """One test study without drawing any other: as it is without the tag, and with it.

    Which of the two stands in `sample_plans` depends on the training set's rate; its pixels tell them apart.

    Args:
        config: As for `sample_plans`.
        index: Place of the study in the test split.
    """
    plan = _draw_study(config, "test", index)
    return replace(plan, shortcut=False), replace(plan, shortcut=True)


def _draw_study(config: PhantomConfig, split: Split, index: int) -> StudyPlan:
    rng = np.random.default_rng((config.seed, _PATIENT, _SPLITS.index(split), index))
    seed = int(rng.integers(1 << 62))
    healthy = rng.random() < config.healthy_share
    complaint = "" if healthy else _choose(tuple((name, share) for name, (share, _) in _COMPLAINTS.items()), rng)
    names = _draw_observations(complaint, rng)
    supine = 0.75 if SUPPORT_DEVICES in names else 0.2 if healthy else 0.4
    plan = StudyPlan(
        study_id=f"p{config.seed}-{split}-{index:05d}",
        patient_id=f"p{config.seed}-{split}-{index:05d}-patient",
        seed=seed,
        sex="F" if rng.random() < 0.48 else "M",
        age=float(np.clip(np.round(rng.normal(60, 17)), 18, 97)),
        view_position="AP" if rng.random() < supine else "PA",
        findings=tuple(draw_finding_plan(seed, name) for name in names),
    )
    present = config.shortcut_observation in names
    share = config.shortcut_if_present if present else config.shortcut_if_absent
    return replace(plan, shortcut=_tag_draw(config, plan) < share)


def _draw_observations(complaint: str, rng: np.random.Generator) -> list[str]:
    """At least one finding for the sick, and perhaps a device for anybody; in the order of OBSERVATIONS."""
    if not complaint:
        return [SUPPORT_DEVICES] if rng.random() < _HEALTHY_DEVICE_SHARE else []
    chances = _COMPLAINTS[complaint][1]
    names: set[str] = set()
    while not names:
        names = {name for name, chance in chances.items() if rng.random() < chance}
    if rng.random() < _DEVICE_SHARE[complaint]:
        names.add(SUPPORT_DEVICES)
    return [name for name in FINDINGS if name in names]


def draw_finding_plan(study_seed: int, observation: str) -> FindingPlan:
    """One observation for one patient: variant, severity, side and zone from a seed that belongs to the two alone."""
    rng = np.random.default_rng((study_seed, _FINDING, FINDINGS.index(observation)))
    variant = _choose(tuple((name, _PLACES[name][0]) for name in VARIANTS[observation]), rng)
    severity = _choose(_SEVERITIES, rng)
    if variant == "blunting" and severity == "severe":
        severity = "moderate"  # a filled angle is a small effusion
    _, sides, zones = _PLACES[variant]
    side, zone = (_choose(sides, rng) if sides else None), (_choose(zones, rng) if zones else None)
    return FindingPlan(observation, variant, severity, int(rng.integers(1 << 62)), side, zone)


def _choose(options: tuple[tuple[T, float], ...], rng: np.random.Generator) -> T:
    shares = np.array([share for _, share in options])
    return options[int(rng.choice(len(options), p=shares / shares.sum()))][0]


def _tag_draw(config: PhantomConfig, plan: StudyPlan) -> float:
    return float(np.random.default_rng((plan.seed, _TAG, config.seed)).random())


def counterfactual_plans(plans: Sequence[StudyPlan], config: PhantomConfig) -> list[PairPlan]:
    """Pairs that differ in one thing: a finding removed, added, moved to the other side, or the tag toggled.

    Args:
        plans: Studies of the test split.
        config: `num_pairs` in all, a quarter of each kind; observations take turns, so that rare ones occur too.

    Returns:
        (kind, observation, before, after); fewer than asked where the studies do not offer enough.
    """
    rng = np.random.default_rng((config.seed, _PAIRS))
    quarter = config.num_pairs // 4
    pairs = _take_turns("removed", plans, quarter, rng)
    pairs += _take_turns("added", plans, quarter, rng)
    pairs += _take_turns("moved", plans, quarter, rng)
    shuffled = [plans[i] for i in rng.permutation(len(plans))]
    tied = config.shortcut_observation
    have = [plan for plan in shuffled if plan.has(tied)][: quarter // 2]
    have_not = [plan for plan in shuffled if not plan.has(tied)][: config.num_pairs - 3 * quarter - len(have)]
    pairs += [("shortcut", tied, plan, replace(plan, shortcut=not plan.shortcut)) for plan in (*have, *have_not)]
    return pairs


def _take_turns(kind: PairKind, plans: Sequence[StudyPlan], number: int, rng: np.random.Generator) -> list[PairPlan]:
    queues = {name: _candidates(kind, name, plans, rng.permutation(len(plans))) for name in FINDINGS}
    pairs: list[PairPlan] = []
    while queues and len(pairs) < number:
        for name in list(queues):
            pair = next(queues[name], None)
            if pair is None:
                del queues[name]
            elif len(pairs) < number:
                pairs.append(pair)
    return pairs


def _candidates(
    kind: PairKind, observation: str, plans: Sequence[StudyPlan], order: NDArray[np.int64]
) -> Iterator[PairPlan]:
    for index in order:
        if (pair := _pair(kind, observation, plans[index])) is not None:
            yield pair


def _pair(kind: PairKind, observation: str, plan: StudyPlan) -> PairPlan | None:
    """The pair of one kind for one study, or None where it cannot be made."""
    present = plan.has(observation)
    match kind:
        case "removed":
            return (kind, observation, plan, plan.without(observation)) if present else None
        case "added":
            if present:
                return None
            return kind, observation, plan, plan.with_finding(draw_finding_plan(plan.seed, observation))
        case "moved":
            return (kind, observation, plan, plan.moved(observation)) if plan.can_move(observation) else None
        case "shortcut":
            return kind, observation, plan, replace(plan, shortcut=not plan.shortcut)
