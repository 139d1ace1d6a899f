"""What docs/ shows of real films, maps, grids and probabilities is what benchmarks/ hold; pictures draw the same."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from PIL import Image

from kdistill.evaluation.bootstrap import bootstrap_weights
from kdistill.evaluation.compare import holm
from kdistill.evaluation.scores import Outputs, Reference, Scope
from kdistill.observations import INDEX, NUM_OBSERVATIONS

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def _benchmarks_can_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))


def stored(name: str) -> Any:
    return json.loads((ROOT / "benchmarks" / name).read_text(encoding="utf-8"))


def document(name: str) -> str:
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("program", "figures", "shown_in"),
    [
        ("real_images", "real_images.json", "results.md"),
        ("where_table", "ablation_main.json", "results.md"),
        ("coarse_fine", "coarse_fine.json", "coarse_fine.md"),
    ],
)
def test_a_document_shows_the_table_as_it_is(program: str, figures: str, shown_in: str) -> None:
    assert importlib.import_module(program).table(stored(figures)) in document(shown_in)


def test_p_is_adjusted_over_the_observations_that_the_protocol_asks_about() -> None:
    real_images = importlib.import_module("real_images")
    scores = [
        {"arm": "full", "observation": name, "n": n, "num_positive": positive}
        for name, n, positive in (
            ("Edema", 30, 10),
            ("Fracture", 30, 9),
            ("Pneumonia", 30, 21),
            ("Atelectasis", 30, 20),
        )
    ]
    rows = [
        {"baseline": "label", "observation": name, "p": p, "p_holm": 0.9}
        for name, p in ((None, 0.2), ("Edema", 0.01), ("Fracture", 0.001), ("Pneumonia", 0.001), ("Atelectasis", 0.04))
    ]
    adjusted = {row["observation"]: row["p_holm"] for row in real_images._adjusted(rows, "label", scores)}
    assert adjusted == {None: 0.9, "Edema": 0.02, "Fracture": None, "Pneumonia": None, "Atelectasis": 0.04}


def test_stored_p_values_of_real_films_are_holm_of_themselves() -> None:
    real_images, found = importlib.import_module("real_images"), stored("real_images.json")
    enough = [r["observation"] for r in found["scores"] if r["arm"] == "full" and r["observation"] and r["value"]]
    enough = [
        name
        for name in enough
        if real_images.is_enough(real_images._first(found["scores"], arm="full", observation=name))
    ]
    assert len(enough) == 7
    for baseline in real_images.BASELINES:
        rows = [real_images._first(found["differences"], baseline=baseline, observation=name) for name in enough]
        assert [row["p_holm"] for row in rows] == holm([row["p"] for row in rows])


def test_a_difference_is_the_first_student_minus_the_second() -> None:
    where_table = importlib.import_module("where_table")
    row = {"value": 0.5, "baseline": 0.75, "ci95": [-0.5, 0.125]}
    assert where_table._difference(row) == "-.250 [-.500, .125]"
    coarse_fine, found = importlib.import_module("coarse_fine"), stored("coarse_fine.json")
    for name, value in (("texts", 0.25), ("texts-fine", 0.5)):
        coarse_fine._first(found["settings"][name]["audit"], {"test": "mask_mass"})["value"] = value
    line = next(line for line in coarse_fine.table(found).splitlines() if line.startswith("| mask mass "))
    assert line.split(" | ")[4] == "+.250"


def bars(axes: Axes) -> Iterator[tuple[str, np.ndarray, list[np.ndarray]]]:
    """Label, points and ends of the intervals of everything with error bars."""
    for container in axes.containers:
        if isinstance(container, ErrorbarContainer):
            points, _, (segments,) = container.lines
            yield str(container.get_label()), np.column_stack(points.get_data()), segments.get_segments()


def test_the_forest_has_every_compared_arm_at_its_value() -> None:
    result_figures, extracted = importlib.import_module("result_figures"), stored("main.json")
    rows = {
        row["baseline"]: row
        for row in extracted["comparisons"]
        if row["name"] == "report_f1" and row["arm"] == "full" and row["ci95"]
    }
    panels = result_figures.forest(extracted).axes
    drawn = {label: (point, ends) for axes in panels for label, (point,), (ends,) in bars(axes)}
    assert drawn.keys() == rows.keys() and len(drawn) == 18
    for baseline, (point, ends) in drawn.items():
        assert point[0] == rows[baseline]["difference"]
        assert ends[:, 0] == pytest.approx(rows[baseline]["ci95"])
    for axes in panels:
        named = [tick.get_text() for tick in axes.get_yticklabels()]
        assert named == [label for label, _, _ in bars(axes)], "names stand beside their own bars"
        assert [point[1] for _, (point,), _ in bars(axes)] == list(range(len(named)))


@pytest.mark.parametrize(("bounds", "mark"), [([0.01, 0.2], "good"), ([-0.2, -0.01], "bad"), ([0.0, 0.2], "open")])
def test_a_bar_is_marked_by_its_interval(bounds: list[float], mark: str) -> None:
    result_figures, extracted = importlib.import_module("result_figures"), stored("main.json")
    row = next(r for r in extracted["comparisons"] if r["baseline"] == "label" and r["name"] == "report_f1")
    row["ci95"] = bounds
    (found,) = result_figures.differences(extracted, ["label", "an arm that was not run"])
    assert (found.label, found.mark) == ("label", mark)


def test_each_curve_goes_through_its_settings() -> None:
    result_figures, settings_table = map(importlib.import_module, ("result_figures", "settings_table"))
    settings = settings_table.load(sorted((ROOT / "benchmarks").glob("ablation_*.json")))
    panels = result_figures.curves(settings).axes
    assert panels[0].get_title() == "P(tag | edema) = 0.9"
    sizes = {"main": 3000, "strong-1000": 1000, "strong-300": 300}
    for arm, points, ends in bars(panels[0]):
        rows = {size: settings[name].score("report_f1", arm) for name, size in sizes.items()}
        assert points.tolist() == [[size, rows[size]["value"]] for size in sorted(rows)]
        assert [e[:, 1].tolist() for e in ends] == [pytest.approx(rows[size]["ci95"]) for size in sorted(rows)]
    assert [label for label, _, _ in bars(panels[0])] == ["full", "template", "report_only"]
    assert sum(len(points) for axes in panels for _, points, _ in bars(axes)) == 3 * len(settings)


def test_the_reliability_diagram_draws_its_bins() -> None:
    result_figures, found = importlib.import_module("result_figures"), stored("calibration.json")
    upper, lower = result_figures.reliability(found).axes
    drawn = list(bars(upper))
    assert [label.split(":")[0] for label, _, _ in drawn] == ["full", "label"]
    for arm, (label, points, ends) in zip(found["arms"], drawn, strict=True):
        assert f"ECE {arm['ece']['value']:.3f}" in label
        assert points.tolist() == [[b["mean_probability"], b["observed_rate"]] for b in arm["bins"]]
        assert [e[:, 1].tolist() for e in ends] == [pytest.approx(b["observed_ci95"]) for b in arm["bins"]]
    counts = {str(c.get_label()): [bar.get_height() for bar in c] for c in lower.containers}
    assert counts == {arm["arm"]: [b["n"] for b in arm["bins"]] for arm in found["arms"]}


def test_the_probabilities_are_those_of_the_main_table() -> None:
    main = {r["arm"]: r for r in stored("main.json")["scores"] if (r["name"], r["average"]) == ("auc", "micro")}
    text = document("results.md")
    for arm in stored("calibration.json")["arms"]:
        assert arm["seeds"] == main[arm["arm"]]["seeds"] and arm["num_studies"] == main[arm["arm"]]["n"]
        assert arm["auc"]["value"] == pytest.approx(main[arm["arm"]]["value"], abs=1e-12)
        assert sum(b["n"] for b in arm["bins"]) == 600 * NUM_OBSERVATIONS * len(arm["seeds"])
        for name in ("ece", "brier"):
            value, bounds = arm[name]["value"], arm[name]["ci95"]
            assert f"{value:.3f} [{bounds[0]:.3f}, {bounds[1]:.3f}]".replace("0.", ".") in text


def test_bins_hold_the_items_of_all_seeds_and_count_no_finding_alone() -> None:
    calibration = importlib.import_module("calibration")
    states = np.zeros((4, NUM_OBSERVATIONS), dtype=np.int8)
    states[:2, INDEX["No Finding"]] = 1
    first, second = np.full((2, 4, NUM_OBSERVATIONS), 0.05)
    first[:, INDEX["No Finding"]] = 0.85
    second[0, INDEX["Edema"]] = 0.85
    seeds = [Outputs("full", 0, probabilities=first), Outputs("full", 1, probabilities=second)]
    patients = ("a", "b", "c", "d")
    scope = Scope("test", np.arange(4), patients, bootstrap_weights(patients, 200, seed=0))
    found = calibration.bins(seeds, Reference("truth", states), scope)
    high = found[8]
    assert (high["n"], high["observed_rate"], high["no_finding"]) == (5, 0.4, {"n": 4, "rate": 0.5})
    assert high["observed_ci95"][0] < 0.4 < high["observed_ci95"][1]
    assert sum(row["n"] for row in found) == 2 * 4 * NUM_OBSERVATIONS and found[5]["observed_ci95"] is None


def test_the_pictures_of_the_document_exist_and_are_sharp_at_its_width() -> None:
    for name in ("forest", "curves", "reliability"):
        assert f"(figures/results_{name}.png)" in document("results.md")
        with Image.open(ROOT / "docs" / "figures" / f"results_{name}.png") as picture:
            assert picture.width >= 800
