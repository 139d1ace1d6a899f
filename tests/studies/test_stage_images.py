"""The studies stage decodes in children and streams pixels to disk: same bytes for any number of processes."""

from __future__ import annotations

import csv
import json
import tracemalloc

import numpy as np
import pytest

from kdistill.artifact import open_stage
from kdistill.errors import PolicyError
from kdistill.studies import store
from kdistill.studies.config import FolderStudies
from kdistill.studies.image_appender import ImageAppender
from kdistill.studies.images import decode_in_process, to_square
from kdistill.studies.stage import build_studies

from .dicom_files import DECODED_EVERYWHERE, dicom, in_syntax, ramp, raster


@pytest.fixture
def folder(tmp_path):
    """Writes a data folder of (study, file bytes) rows."""

    def write(rows, **more):
        with (tmp_path / "studies.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["study_id", "patient_id", "image_path", "split"])
            for number, (study, data, split) in enumerate(rows):
                (tmp_path / f"{number}.img").write_bytes(data)
                writer.writerow([study, f"p{study}", f"{number}.img", split])
        return FolderStudies(path=str(tmp_path), size_px=32, max_rejected_share=0.5, **more)

    return write


def build(config, out, processes=1):
    with open_stage(out / "studies", stage="studies", config=config) as stage:
        build_studies(stage, config, processes=processes)
    return out / "studies", dict(stage.counts)


def film(number):
    return raster(np.random.default_rng(number).integers(0, 255, (48, 48), dtype=np.uint8), "PNG")


def test_the_result_does_not_depend_on_the_number_of_processes(folder, tmp_path):
    files = [in_syntax(syntax, PatientAge="070Y") for syntax in DECODED_EVERYWHERE[4:]] + [film(n) for n in range(12)]
    files[5] = files[5][:-40]
    config = folder([(f"s{n}", data, "train") for n, data in enumerate(files)])
    (one, counts), (two, again) = build(config, tmp_path / "a"), build(config, tmp_path / "b", processes=3)
    for name in (store.STUDIES, store.IMAGES, store.REJECTED):
        assert (one / name).read_bytes() == (two / name).read_bytes()
    assert counts == again and counts["rejected_image_unusable"] == 1 and counts["studies_train"] == 14
    images = store.load_images(one)
    expected = [to_square(decode_in_process(data).pixels, 32) for n, data in enumerate(files) if n != 5]
    assert np.array_equal(images, np.stack(expected))
    assert [study.images[0].row for study in store.load_studies(one)] == list(range(14))


def test_an_appended_array_has_the_bytes_that_numpy_writes(tmp_path):
    for count in (0, 1, 12, 345):
        images = np.random.default_rng(count).integers(0, 256, (count, 8, 8), dtype=np.uint8)
        appender = ImageAppender(tmp_path / "a.npy", 8)
        assert [appender.append(image) for image in images] == list(range(count))
        appender.close()
        appender.close()
        np.save(tmp_path / "b.npy", images)
        assert (tmp_path / "a.npy").read_bytes() == (tmp_path / "b.npy").read_bytes()
    other = ImageAppender(tmp_path / "c.npy", 8)
    with pytest.raises(ValueError, match="float64"):
        other.append(np.zeros((8, 8)))
    other.close()


def test_an_unfinished_array_is_taken_for_no_array(tmp_path):
    appender = ImageAppender(tmp_path / "a.npy", 8)
    appender.append(np.zeros((8, 8), dtype=np.uint8))
    appender._file.flush()
    with pytest.raises(ValueError):
        np.load(tmp_path / "a.npy", allow_pickle=False)
    appender.close()


def test_images_are_not_held_in_memory(folder, tmp_path):
    config = folder([(f"s{n}", film(n), "train") for n in range(60)]).model_copy(update={"size_px": 256})
    tracemalloc.start()
    out, _ = build(config, tmp_path / "out")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    total = 60 * 256 * 256
    assert (out / store.IMAGES).stat().st_size == total + 128
    assert peak < 0.6 * total  # measured: 0.35, of which most is one child's answers in flight


def test_row_17_a_lateral_view_is_known_from_the_files_own_tags(folder, tmp_path):
    lateral = dicom(ramp(), ViewPosition="LL")
    frontal = dicom(ramp(0, 3000), ViewPosition="PA")
    rows = [("s1", lateral, "train"), ("s1", frontal, "train"), ("s2", dicom(ramp(5, 900), ViewPosition="RL"), "train")]
    out, counts = build(folder(rows), tmp_path / "a")
    (study,) = store.load_studies(out)
    assert study.view_position == "PA" and [image.view_position for image in study.images] == ["PA", "LATERAL"]
    assert np.array_equal(store.load_images(out)[study.images[0].row], to_square(decode_in_process(frontal).pixels, 32))
    assert counts["rejected_view_not_frontal"] == 1 and counts["images_noted_lateral_view"] == 2
    kept, _ = build(folder(rows, frontal_only=False, first_view="as_listed"), tmp_path / "b")
    assert [s.view_position for s in store.load_studies(kept)] == ["LATERAL", "LATERAL"]


def test_row_17_a_hand_is_quarantined_or_noted_by_policy(folder, tmp_path):
    rows = [("s1", dicom(ramp()), "train"), ("s2", dicom(ramp(0, 900), BodyPartExamined="HAND"), "train")]
    out, counts = build(folder(rows), tmp_path / "a")
    assert counts["rejected_image_unusable"] == 1
    assert json.loads((out / store.REJECTED).read_text()) == {"item": "1.img", "reason": "image_unusable"}
    _, counts = build(folder(rows, require_chest=False), tmp_path / "b")
    assert counts["images_noted_not_a_chest_radiograph"] == 1 and counts["studies_train"] == 2


def test_row_23_the_same_film_as_dicom_and_png_in_two_splits_is_refused(folder, tmp_path):
    eight = {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7, "WindowCenter": 128, "WindowWidth": 256}
    pixels = ramp(0, 255)
    rows = [("s1", dicom(pixels, **eight), "train"), ("s2", raster(pixels.astype(np.uint8), "PNG"), "test")]
    with pytest.raises(PolicyError, match="equal pixels"):
        build(folder(rows), tmp_path / "out")
    assert not (tmp_path / "out" / "studies").exists()
