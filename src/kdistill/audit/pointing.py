"""Do evidence maps point at the findings, and better than saliency maps of a plain classifier, noise, or the centre?

All methods are scored on the same cases (findings with a known mask, whether the student found them or not) and on the
same patch grid. Cases are the findings that are there, so a map is never scored where nothing is to be found.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kdistill.audit.localisation import (
    Region,
    mask_mass,
    mass_chance,
    pointing_chance,
    pointing_hits,
    regions,
    size_terciles,
    summed,
)
from kdistill.audit.maps import MapCases
from kdistill.audit.resampling import Fraction, PatientBootstrap, fraction
from kdistill.audit.rows import AuditRow, compared, measured, not_run
from kdistill.evaluation.bootstrap import Estimate

#: Thirds of the findings by the area of their mask.
SIZES: Final = ("small", "medium", "large")
ScoreMaps = Callable[[NDArray, Region], NDArray[np.float64]]
MEASURES: Final[Mapping[str, tuple[ScoreMaps, Callable[[Region], NDArray[np.float64]]]]] = MappingProxyType(
    {"pointing_game": (pointing_hits, pointing_chance), "mask_mass": (mask_mass, mass_chance)}
)


class Method(NamedTuple):
    """Maps of one method: for each seed the cases that they are about, and the maps [N, G, G]."""

    name: str
    arm: str
    seeds: Sequence[tuple[MapCases, NDArray[np.float64]]]
    note: str = ""


def on_grid(method: Method, grid: int | None) -> Method:
    """The method's maps summed to a grid; None leaves them on their own."""
    if grid is None:
        return method
    return method._replace(seeds=[(cases, summed(maps, grid)) for cases, maps in method.seeds])


def score_method(measure: str, method: Method) -> list[Fraction]:
    """One Fraction for each seed."""
    score, _ = MEASURES[measure]
    return [
        fraction(cases.patient_ids, score(maps, regions(cases.masks, maps.shape[-1]))) for cases, maps in method.seeds
    ]


def size_rows(measure: str, method: Method, boot: PatientBootstrap) -> Iterator[AuditRow]:
    """The score apart for small, medium and large findings: terciles of the area of the cases' masks."""
    score, chance = MEASURES[measure]
    cases = method.seeds[0][0]
    third, bounds = size_terciles(cases.masks)
    grid = method.seeds[0][1].shape[-1]
    limits = (f"masks of at most {bounds[0]:.2%} of the image", f"up to {bounds[1]:.2%}", f"above {bounds[1]:.2%}")
    for number, (size, limit) in enumerate(zip(SIZES, limits, strict=True)):
        rows = np.flatnonzero(third == number)
        if not len(rows):
            yield not_run(f"{measure}_{size}", method.arm, "no mask is of this size: many have equal areas")
            continue
        patients, region = [cases.patient_ids[row] for row in rows], regions(cases.masks[rows], grid)
        found = boot.ratio([fraction(patients, score(maps[rows], region)) for _, maps in method.seeds])
        yield measured(
            f"{measure}_{size}",
            method.arm,
            found,
            n=len(rows),
            baseline=float(chance(region).mean()),
            reason=f"{limit}; baseline: chance on the same masks, {grid} patches a side",
        )


def method_row(measure: str, method: Method, boot: PatientBootstrap) -> tuple[AuditRow, Estimate]:
    """The score of one method with its chance level."""
    _, chance = MEASURES[measure]
    cases, maps = method.seeds[0]
    found = boot.ratio(score_method(measure, method))
    suffix = "" if method.name == "attention" else f"_{method.name}"
    row = measured(
        f"{measure}{suffix}",
        method.arm,
        found,
        n=len(cases.patient_ids),
        baseline=float(chance(regions(cases.masks, maps.shape[-1])).mean()),
        reason=f"baseline: chance on the same masks{'; ' + method.note if method.note else ''}",
    )
    return row, found


def pointing_rows(
    attention: Mapping[str, Method],
    others: Sequence[Method],
    arm: str,
    boot: PatientBootstrap,
    other_arms: Sequence[str] = (),
    pointing_grid: int | None = None,
) -> Iterator[AuditRow]:
    """Scores of every arm's evidence maps, also by the size of the finding, and of the other methods; then `arm`
    against each of those.

    Args:
        attention: Arm -> its evidence maps.
        others: Saliency methods and the two maps that see no image.
        arm: The arm whose evidence maps have to lie above the others.
        boot: Patient resamples.
        other_arms: Arms whose evidence maps `arm`'s have to lie above.
        pointing_grid: Grid of the pointing game, see `AuditConfig`; the mass inside a mask needs no common one.
    """
    for measure in MEASURES:
        grid = pointing_grid if measure == "pointing_game" else None
        if grid is not None and (own := _finest_misfit(attention, grid)) is not None:
            yield not_run(measure, arm, f"audit.pointing_grid {grid} does not divide a grid of {own} patches a side")
            continue
        yield from _measure_rows(
            measure,
            {name: on_grid(method, grid) for name, method in attention.items()},
            [on_grid(method, grid) for method in others],
            arm,
            boot,
            other_arms,
        )


def _finest_misfit(methods: Mapping[str, Method], grid: int) -> int | None:
    """Patches a side of maps that cannot be summed to a grid; None where all can."""
    sides = {maps.shape[-1] for method in methods.values() for _, maps in method.seeds}
    return max((side for side in sides if side % grid), default=None)


def _measure_rows(
    measure: str,
    attention: Mapping[str, Method],
    others: Sequence[Method],
    arm: str,
    boot: PatientBootstrap,
    other_arms: Sequence[str],
) -> Iterator[AuditRow]:
    for method in (*attention.values(), *others):
        yield method_row(measure, method, boot)[0]
    for method in attention.values():
        yield from size_rows(measure, method, boot)
    for other in others:
        if arm in attention:
            yield _against(measure, attention[arm], other, boot)
        else:
            yield not_run(f"{measure}_vs_{other.name}", arm, f"the recipe has no arm {arm} with evidence maps")
    for name in other_arms:
        if missing := [a for a in (arm, name) if a not in attention]:
            reason = f"the recipe has no arm {missing[0]} with evidence maps"
            yield not_run(f"{measure}_vs_{name}", arm, reason)
        else:
            row = _against(measure, attention[arm], attention[name], boot)
            yield row.model_copy(update={"test": f"{measure}_vs_{name}"})


def _against(measure: str, mine: Method, other: Method, boot: PatientBootstrap) -> AuditRow:
    """Paired on the other's cases: a costly method is computed on some of the studies only."""
    theirs = [_on_same_cases(seed, mine.seeds[0][0]) for seed in other.seeds]
    cases = theirs[0][0]
    own = Method(mine.name, mine.arm, [_on_same_cases(seed, cases) for seed in mine.seeds])
    left = boot.ratio(score_method(measure, own))
    right = boot.ratio(score_method(measure, Method(other.name, other.arm, theirs)))
    test, label = f"{measure}_vs_{other.name}", f"{other.name} ({other.arm})"
    return compared(test, mine.arm, label, left, right, n=len(cases.patient_ids), better="higher", reason=other.note)


def _on_same_cases(seed: tuple[MapCases, NDArray], cases: MapCases) -> tuple[MapCases, NDArray]:
    """The first cases of a seed's, as many as `cases` has: `MapCases.take` always keeps a prefix of the images."""
    own, maps = seed
    keep = np.flatnonzero(own.image < len(cases.images))
    return own.take(len(cases.images)), maps[keep]
