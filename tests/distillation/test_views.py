"""Which film a training visit shows, and that workers, like the cut of a batch, change nothing."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from kdistill.artifact import StageWriter
from kdistill.distillation.collate import Visit, VisitOrder
from kdistill.distillation.config import DistillationConfig, GeometricPhotometric
from kdistill.distillation.predict import encode_images
from kdistill.distillation.stage import build_student
from kdistill.distillation.views import FrontalViews
from kdistill.records import Study, StudyImage, write_jsonl
from kdistill.student.config import StudentConfig
from kdistill.student.images import pixel_values
from kdistill.student.modeling import load_student
from kdistill.studies.frame import FrameFinder
from kdistill.studies.phantom.plan import StudyPlan
from kdistill.studies.phantom.render import render_uint8
from kdistill.studies.store import load_images, load_studies

from .parts import make_parts
from .test_augment import same
from .test_trainer import Killed, run
from .toy import ToyDirs

ANY = DistillationConfig(training_view="any_frontal")
EVERYTHING_DRAWN = {
    "augmentation": GeometricPhotometric(kind="geometric_photometric"),
    "training_view": "any_frontal",
}


@pytest.fixture(scope="module")
def several(world: ToyDirs, tmp_path_factory: pytest.TempPathFactory) -> ToyDirs:
    """The toy world with a second frontal film (its first, darker) and a lateral one (all white) of every study."""
    folder = tmp_path_factory.mktemp("several") / "studies"
    shutil.copytree(world.studies, folder)
    images, studies = load_images(world.studies), load_studies(world.studies)
    number = len(images)
    write_jsonl(folder / "studies.jsonl", [_with_three(study, number) for study in studies])
    np.save(folder / "images.npy", np.concatenate([images, images // 2, np.full_like(images, 255)]))
    return ToyDirs(folder, world.labels, world.rationales, world.teacher)


def _with_three(study: Study, number: int) -> Study:
    row = study.images[0].row
    rows = {"PA": row, "LATERAL": row + 2 * number, "AP": row + number}
    films = tuple(StudyImage(image_path=f"{r}.png", row=r, view_position=view) for view, r in rows.items())
    return study.model_copy(update={"images": films})


def study(*views: str | None) -> Study:
    films = tuple(StudyImage(image_path=f"{row}.png", row=10 + row, view_position=v) for row, v in enumerate(views))
    return Study(study_id="s", patient_id="p", split="train", images=films)


def drawn_rows(one: Study, visits: int = 60) -> Counter:
    views = FrontalViews.of([study("PA"), one], seed=0)
    return Counter(views.image_rows[views([1] * visits, range(visits))].tolist())


def test_every_frontal_film_is_shown_about_equally_and_no_other() -> None:
    found = drawn_rows(study("PA", "LATERAL", "AP Supine"))
    assert set(found) == {10, 12} and 18 <= found[10] <= 42  # 60 tosses: 3 standard deviations
    assert set(drawn_rows(study("LATERAL", "PA"))) == {11}


@pytest.mark.parametrize("views", [("PA",), (None, None), ("LATERAL", None), ("LATERAL", "LATERAL")])
def test_a_study_without_several_frontal_films_shows_its_first(views: tuple[str | None, ...]) -> None:
    assert set(drawn_rows(study(*views))) == {10}


def test_the_film_belongs_to_seed_visit_and_study() -> None:
    studies = [study("PA", "AP")] * 40
    views = FrontalViews.of(studies, seed=0)
    assert views.num_with_several == 40 and len(views.image_rows) == 80
    numbers = list(range(40))
    shown = views(numbers, numbers)
    assert (shown // 2 == numbers).all(), "each study shows films of its own"
    cut = [int(views([n], [n])[0]) for n in reversed(numbers)]
    assert shown.tolist() == cut[::-1]
    others = [FrontalViews.of(studies, seed=1)(numbers, numbers), views(numbers, [n + 40 for n in numbers])]
    assert all((other != shown).any() for other in others)


def test_first_is_the_default_and_reads_the_first_film_at_every_visit(several: ToyDirs, tiny: StudentConfig) -> None:
    assert DistillationConfig().training_view == "first"
    parts = make_parts(several, tiny, DistillationConfig(), "full")
    films = pixel_values(load_images(several.studies)[:8], parts.model.config)
    for start in (0, 100):
        assert same(parts.collator([Visit(n, number=start + n) for n in range(8)])["pixel_values"], films)


def test_the_collator_shows_the_drawn_film_and_all_else_stays(several: ToyDirs, tiny: StudentConfig) -> None:
    first, parts = (make_parts(several, tiny, config, "full") for config in (DistillationConfig(), ANY))
    images, number = load_images(several.studies), len(load_studies(several.studies))
    expected = first.batch(range(24))
    seen: Counter = Counter()
    for start in (0, 24, 48):
        batch = parts.collator([Visit(n, number=start + n) for n in range(24)])
        films = [pixel_values(images[[n, n + number]], parts.model.config) for n in range(24)]
        which = [[same(value, film) for film in own] for value, own in zip(batch["pixel_values"], films, strict=True)]
        assert all(sum(own) == 1 for own in which)
        seen.update(own.index(True) for own in which)
        assert all(same(batch[name], expected[name]) for name in expected if name != "pixel_values")
    assert 20 < seen[0] < 52


def test_found_regions_are_those_of_the_film_that_is_shown(several: ToyDirs, tiny: StudentConfig) -> None:
    """First films without a chest, second ones with it: each mask is in the frame of its own film."""
    folder = several.studies.parent / "chests"
    shutil.copytree(several.studies, folder)
    images = load_images(several.studies).copy()
    number = len(images) // 3
    chest = render_uint8(StudyPlan("s", "p", 3, "M", 60.0, "PA", ()), 128)[0]
    images[number : 2 * number, 4:28, :24] = chest[::5, ::5][:24, :24]
    images[number : 2 * number, :, 24:] = 0
    np.save(folder / "images.npy", images)
    world = ToyDirs(folder, several.labels, several.rationales, several.teacher)
    parts = make_parts(world, tiny, ANY.model_copy(update={"where_frame": "found"}), "full")
    views, masks = parts.collator.views, parts.collator.region_masks
    assert views is not None and masks is not None
    frames = FrameFinder().find_many(images, views.image_rows)
    assert frames.found[1::2].all() and not frames.found[::2].any()
    batch = parts.collator([Visit(n, number=n) for n in range(24)])
    films = views(range(24), range(24))[batch["region_index"][:, 0]]
    expected = masks(films, batch["region_rows"].numpy())
    assert same(batch["region_masks"], expected)
    standard = parts.targets.region_table.masks(expected.shape[1])[batch["region_rows"]]
    moved = (expected != standard).any(1).numpy()
    assert moved.any() and not moved[films % 2 == 0].any()


def test_visits_are_numbered_through_the_run_and_their_order_is_as_before() -> None:
    visits = list(VisitOrder(7, 20, seed=3, text_every=3))
    assert [visit.number for visit in visits] == list(range(20))
    passes = [np.random.default_rng([3, epoch]).permutation(7) for epoch in range(3)]
    assert [visit.study for visit in visits] == np.concatenate(passes).tolist()[:20]


def test_workers_cuts_and_resuming_change_no_weight(
    several: ToyDirs, tiny: StudentConfig, short: DistillationConfig, tmp_path: Path
) -> None:
    """With everything drawn: no worker, two workers, and killed at step 5 and resumed with two, bit for bit."""

    def kill(done: int, total: int) -> None:
        if done == 5:
            raise Killed

    config = short.model_copy(update=EVERYTHING_DRAWN)
    two = config.model_copy(update={"data_workers": 2})
    student = tiny.model_copy(update={"dropout": 0.1})
    alone, helped, killed, resumed = (make_parts(several, student, config, "full") for _ in range(4))
    history = run(alone, config, tmp_path / "a")
    assert run(helped, two, tmp_path / "b") == history
    with pytest.raises(Killed):
        run(killed, two, tmp_path / "c", on_progress=kill)
    assert run(resumed, two, tmp_path / "c") == history
    weights = alone.model.state_dict()
    for other in (helped, resumed):
        assert all(torch.equal(value, weights[name]) for name, value in other.model.state_dict().items())
    plain = make_parts(several, student, short, "full")
    assert run(plain, short, tmp_path / "d")[0]["label_loss"] != history[0]["label_loss"]


def test_prediction_reads_the_first_film_as_it_is(
    several: ToyDirs, tiny: StudentConfig, short: DistillationConfig, tmp_path: Path
) -> None:
    config = short.model_copy(update={**EVERYTHING_DRAWN, "num_image_visits": 16})
    stage = StageWriter(tmp_path)
    build_student(
        stage,
        config,
        tiny,
        "label",
        0,
        studies_dir=several.studies,
        labels_dir=several.labels,
        rationales_dir=several.rationales,
        teacher_dir=several.teacher,
    )
    assert stage.counts["studies_with_several_frontal_images"] == 24
    table = pq.read_table(tmp_path / "predictions.parquet").to_pylist()
    said = np.array([line["probabilities"] for line in table])
    images = load_images(several.studies)
    rows = [s.images[0].row for split in ("validate", "test") for s in load_studies(several.studies, split)]
    expected = encode_images(load_student(tmp_path / "model"), images, rows, batch_size=256, blanked=False)
    np.testing.assert_allclose(said, expected.probabilities, rtol=0, atol=1e-6)
