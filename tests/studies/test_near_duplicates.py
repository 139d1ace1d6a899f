"""The same film in two exports is found, two films of different patients are not, whatever the size of the set."""

from __future__ import annotations

import csv
import io

import numpy as np
import pytest
from PIL import Image

from kdistill.studies.images import read_grey
from kdistill.studies.near_duplicates import SAME_FILM, fingerprint, local_contrast, near_pairs


def film(seed, size=160):
    """Smooth random structure: as different from one another as films of two patients, at least."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.random((20, 20)).astype(np.float32))
    pixels = np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC))
    return np.clip(pixels, 0, 1)


def exported_again(pixels, how):
    match how:
        case "smaller":
            return np.asarray(Image.fromarray(pixels).resize((96, 96), Image.Resampling.BILINEAR))
        case "jpeg":
            buffer = io.BytesIO()
            Image.fromarray((pixels * 255).astype(np.uint8)).save(buffer, "JPEG", quality=40)
            return np.asarray(Image.open(buffer), dtype=np.float32) / 255
        case "window":
            return np.clip((pixels - 0.15) / 0.7, 0, 1)
        case "gamma":
            return pixels**1.4
        case "inverted":
            return 1 - pixels
        case "mirrored":
            return pixels[:, ::-1]
    raise AssertionError(how)


RELATIONS = {
    "smaller": "same",
    "jpeg": "same",
    "window": "same",
    "gamma": "same",
    "inverted": "inverted",
    "mirrored": "mirrored",
}


@pytest.mark.parametrize("max_all_pairs", [10_000, 0], ids=["every pair", "hash bands"])
@pytest.mark.parametrize("how", RELATIONS)
def test_an_export_of_a_film_is_found_among_others(how, max_all_pairs):
    films = [film(seed) for seed in range(60)]
    films += [exported_again(films[7], how), exported_again(films[30], how)]
    pairs = near_pairs(np.stack([fingerprint(pixels) for pixels in films]), max_all_pairs=max_all_pairs)
    assert [(p.first, p.second, p.relation) for p in pairs] == [(7, 60, RELATIONS[how]), (30, 61, RELATIONS[how])]
    assert all(SAME_FILM <= p.correlation <= 1 + 1e-5 for p in pairs)


def test_correlation_is_that_of_numpy():
    prints = np.stack([fingerprint(film(seed)) for seed in range(3)])
    rows = local_contrast(prints)
    assert rows @ rows.T == pytest.approx(np.corrcoef(rows), abs=1e-5)


def test_exposure_and_contrast_do_not_count():
    print_ = fingerprint(film(1))
    darker = np.rint(print_ * 0.6 + 20).astype(np.uint8)
    one, other = local_contrast(np.stack([print_, darker]))
    assert one @ other > 0.97  # measured 0.99; 0.6 of the contrast meets the floor of 4 grey levels


def test_many_equal_films_link_to_one_another_without_every_pair():
    """600 copies in one bucket: more than a bucket compares, and every one is still linked to an early one."""
    copies = np.repeat(fingerprint(film(1))[None], 600, axis=0)
    pairs = near_pairs(copies, max_all_pairs=0)
    assert {p.second for p in pairs} == set(range(1, 600))
    assert len(pairs) < 600 * 599 / 2


def test_constant_images_are_no_film():
    assert near_pairs(np.zeros((5, 64, 64), dtype=np.uint8)) == []
    assert near_pairs(np.empty((0, 64, 64), dtype=np.uint8)) == []


def test_films_in_two_published_copies_of_nih_are_found_and_no_others(shared_data):
    """nih_cxr14_64px and the larger sets share films, resampled by different hands."""
    folder = shared_data / "nih_cxr14_64px"
    with (folder / "labels.csv").open() as file:
        small = [(row["Image Index"], row["Patient ID"]) for row in csv.DictReader(file)]
    prints = [fingerprint(image / 255) for image in np.load(folder / "images.npz")["images"]]
    with (shared_data / "nih_cxr14_extra" / "labels.csv").open() as file:
        large = list(csv.DictReader(file))
    prints += [fingerprint(read_grey(shared_data / "nih_cxr14_extra" / row["image"])) for row in large]
    names = [name for name, _ in small] + [row["Image Index"] for row in large]
    shared = {name for name in names if names.count(name) == 2}
    found = near_pairs(np.stack(prints), max_all_pairs=0)
    assert {names[p.first] for p in found} == {names[p.second] for p in found} == shared
    assert len(shared) == 16
