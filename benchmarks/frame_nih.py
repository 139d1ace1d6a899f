"""Is the thorax found on real films, and do the textbook sites then lie nearer to what radiologists boxed?

    python benchmarks/frame_nih.py ../shared/data [--sheet SHEET.png]

Needs nih_cxr14_subset and nih_cxr14_extra (NIH ChestX-ray14, Wang et al. 2017, arXiv:1705.02315). Prints four tables:
confidence over all films; radiologists' boxes against the sites in the standard film's frame and in each film's own;
how the frame follows a film that is moved or scaled by a known amount; the frame against the phantom's own lungs.
`--sheet` draws the 50 films that were graded by eye (docs/frame.md). Nothing is trained.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from kdistill.evaluation.bootstrap import bootstrap_weights, interval
from kdistill.records import Side
from kdistill.sites import REFERENCE, Box, Frame, boxes, rasterise
from kdistill.studies.boxes import read_nih_boxes
from kdistill.studies.frame import FoundFrame, FoundFrames, FrameFinder
from kdistill.studies.images import read_grey, to_square
from kdistill.studies.phantom.anatomy import thorax_of
from kdistill.studies.phantom.render import render_uint8
from kdistill.studies.phantom.scene import Scene
from kdistill.studies.phantom.world import sample_plans
from kdistill.studies.phantom.write import config_for

#: What the finder is shown: the size of the recipes' images.
SIZE_PX: Final = 128
#: Boxes are measured on this grid.
FINE: Final = 256
#: A box with this share of its width on one side of the film's middle is taken as one-sided.
ONE_SIDED: Final = 0.8
#: (shift right, shift down, scale about the centre), in fractions of the image.
MOVES: Final = ((0.1, 0.0, 1.0), (-0.1, 0.0, 1.0), (0.0, 0.1, 1.0), (0.0, -0.1, 1.0), (0.0, 0.0, 0.8), (0.0, 0.0, 1.15))


class Boxed(NamedTuple):
    """A radiologist's box on one film."""

    patient: str
    film: int
    observation: str
    box: Box


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--sheet", type=Path, help="draw the films that were graded by eye")
    arguments = parser.parse_args()
    subset = arguments.data / "nih_cxr14_subset"
    paths = sorted((subset / "images").iterdir())
    extra = sorted((arguments.data / "nih_cxr14_extra/images").iterdir())
    films = np.stack([to_square(read_grey(path), SIZE_PX) for path in paths])
    finder = FrameFinder()
    start = time.perf_counter()
    found = finder.find_many(films)
    rate = len(films) / (time.perf_counter() - start)
    print(f"{found.found.sum()} of {len(films)} films found; confidence min, 5%, median: ", end="")
    print(", ".join(f"{value:.2f}" for value in np.quantile(found.confidence, [0, 0.05, 0.5])), f"; {rate:.0f} films/s")
    print_controls(films, finder)
    print_boxes(read_boxes(subset / "bbox.csv", paths), found)
    chosen = np.random.default_rng(2).choice(len(paths), 100, replace=False)
    print_moves([paths[n] for n in chosen], finder)
    print_phantom(finder)
    if arguments.sheet:
        draw_sheet(graded_films(paths, extra), finder, arguments.sheet)


def print_controls(films: np.ndarray, finder: FrameFinder) -> None:
    """How often a frame is believed where the film is not as it should be."""
    edge = SIZE_PX // 4
    tiles = films.reshape(-1, 4, edge, 4, edge).swapaxes(2, 3).reshape(-1, 16, edge * edge)
    order = np.argsort(np.random.default_rng(0).random((len(films), 16)), axis=1)
    tiles = np.take_along_axis(tiles, order[..., None], axis=1)
    changed = {
        "left and right swapped": films[:, :, ::-1],
        "inverted": 255 - films,
        "turned left": np.rot90(films, 1, (1, 2)),
        "turned right": np.rot90(films, 3, (1, 2)),
        "upside down": films[:, ::-1],
        "16 tiles shuffled": tiles.reshape(-1, 4, 4, edge, edge).swapaxes(2, 3).reshape(films.shape),
    }
    for name, several in changed.items():
        print(f"  {name}: {finder.find_many(several).found.mean():.3f} believed")


def read_boxes(path: Path, paths: Sequence[Path]) -> list[Boxed]:
    """The boxes whose label is one of ours, on the films at hand."""
    film = {item.stem: number for number, item in enumerate(paths)}
    return [Boxed(b.patient_id, film[b.stem], b.observation, b.box) for b in read_nih_boxes(path) if b.stem in film]


def shares(boxed: Boxed, frame: Frame, *, sided: bool) -> tuple[float, float]:
    """(share of the radiologist's box inside the site, share of the film inside the site: chance).

    With `sided` the site is cut to the side of the film on which at least `ONE_SIDED` of the box's width lies, as a
    report would state it, in all frames alike; a box across the middle keeps both sides.
    """
    side = side_of(boxed.box) if sided else None
    site = rasterise(np.array(boxes(boxed.observation, side, frame=frame)), FINE)
    drawn = rasterise(np.array([boxed.box]), FINE)
    return float((site * drawn).sum() / drawn.sum()), float(site.mean())


def side_of(box: Box) -> Side | None:
    """The patient's side on which a box lies; None across the middle of the film."""
    share = min(max((0.5 - box.left) / (box.right - box.left), 0.0), 1.0)
    return "right" if share >= ONE_SIDED else "left" if share <= 1 - ONE_SIDED else None


def print_boxes(boxed: Sequence[Boxed], found: FoundFrames) -> None:
    """Share of each box inside its site, and the site's own share of the film."""
    patients = [item.patient for item in boxed]
    weights = bootstrap_weights(patients, 2000, seed=0)
    fell_back = sum(not found.found[item.film] for item in boxed)
    print(f"\nboxes: {len(boxed)} on {len({b.film for b in boxed})} films of {len(set(patients))} patients")
    print(f"on films that fell back: {fell_back}; on one side: {sum(side_of(b.box) is not None for b in boxed)}")
    typical = Frame(*found.frames[found.found].mean(axis=0).tolist())
    print("typical frame (mean of all found, for every film): " + " ".join(f"{value:.3f}" for value in typical))
    for frame, name in ((REFERENCE, "fixed"), (typical, "typical")):
        print(f"\n{'':29s} {name:>7s} mean  median   found mean  median   found - {name} [95%, patients]")
        print_against(frame, boxed, found, weights)


def print_against(frame: Frame, boxed: Sequence[Boxed], found: FoundFrames, weights: np.ndarray) -> None:
    """Each film's own frame against one frame for all."""
    for name, sided in (("all sides", False), ("its side", True)):
        fixed = np.array([shares(item, frame, sided=sided) for item in boxed])
        own = np.array([shares(item, found[item.film].frame, sided=sided) for item in boxed])
        for measure, pick in (
            ("box inside site", lambda v: v[:, 0]),
            ("site's area", lambda v: v[:, 1]),
            ("inside / area", lambda v: v[:, 0] / v[:, 1]),
            ("inside < half", lambda v: (v[:, 0] < 0.5).astype(float)),
        ):
            print_difference(f"{name:10s} {measure:18s}", pick(fixed), pick(own), weights)


def print_difference(name: str, fixed: np.ndarray, own: np.ndarray, weights: np.ndarray) -> None:
    """One line: both, and the mean difference with its interval."""
    differences = (own - fixed) @ weights / weights.sum(axis=0)
    bounds = interval(differences[1:])
    assert bounds is not None
    print(
        f"{name} {fixed.mean():12.3f} {np.median(fixed):7.3f} {own.mean():12.3f} {np.median(own):7.3f}"
        f"   {differences[0]:+.3f} [{bounds[0]:+.3f}, {bounds[1]:+.3f}]"
    )


def print_moves(paths: Sequence[Path], finder: FrameFinder) -> None:
    """Move or scale each film (black where it ends) and see whether the frame goes along."""
    grey = [read_grey(path) for path in paths]
    before = finder.find_many(np.stack([to_square(film, SIZE_PX) for film in grey]))
    print(f"\nmoved films: {before.found.sum()} of {len(paths)} found unmoved; error of an edge as share of the film")
    print("right  down  scale   mean error  median  if it had stayed   found again")
    for right, down, scale in MOVES:
        after = finder.find_many(np.stack([to_square(moved(film, right, down, scale), SIZE_PX) for film in grey]))
        expected = (before.frames - 0.5) * scale + 0.5 + np.array([right, down, right, down, right])
        both = before.found & after.found
        error, still = (abs(f[both] - expected[both]) for f in (after.frames, before.frames))
        print(
            f"{right:+.2f} {down:+.2f}  {scale:.2f}   {error.mean():10.3f} {np.median(error):7.3f} {still.mean():17.3f}"
            f" {both.sum():9d} of {before.found.sum()}"
        )


def moved(film: np.ndarray, right: float, down: float, scale: float) -> np.ndarray:
    """The film scaled about its centre, then shifted; black comes in at the edges."""
    height, width = film.shape
    left, top = (0.5 - (0.5 + right) / scale) * width, (0.5 - (0.5 + down) / scale) * height
    return np.asarray(
        Image.fromarray(film).transform(
            (width, height), Image.Transform.AFFINE, (1 / scale, 0, left, 0, 1 / scale, top), Image.Resampling.BILINEAR
        )
    )


def print_phantom(finder: FrameFinder, num: int = 60) -> None:
    """The frame against the box of the lungs through which the phantom's rays pass (checked, never used)."""
    plans = [plan for split in sample_plans(config_for(num)).values() for plan in split][:num]
    found = finder.find_many(np.stack([render_uint8(plan, SIZE_PX)[0] for plan in plans]))
    lungs = np.array([_lungs(Scene(thorax_of(p.seed, p.sex, p.view_position), SIZE_PX)) for p in plans])
    own, fixed = (abs(frames[:, :4] - lungs)[found.found] for frames in (found.frames, np.array([REFERENCE])))
    print(f"\nphantom: {found.found.sum()} of {len(plans)} found; error of left, top, right, bottom, all")
    for name, error in (("found", own), ("fixed", fixed)):
        print(name, *(f"{value:.3f}" for value in (*error.mean(axis=0), error.mean())))


def _lungs(scene: Scene) -> tuple[float, float, float, float]:
    rows, columns = np.nonzero(scene.aerated() > 0.3)
    edges = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
    return tuple(float(edge) / SIZE_PX for edge in edges)


def graded_films(subset: Sequence[Path], extra: Sequence[Path]) -> list[Path]:
    """34 and 16 films by chance, none of the 25 on which the method was set."""
    seen = {subset[n] for n in np.random.default_rng(0).choice(len(subset), 34, replace=False)[:25]}
    random = np.random.default_rng(5)
    fresh = [path for path in subset if path not in seen]
    films = [fresh[n] for n in random.choice(len(fresh), 34, replace=False)]
    return films + [extra[n] for n in random.choice(len(extra), 16, replace=False)]


def draw_sheet(paths: Sequence[Path], finder: FrameFinder, out: Path, tile_px: int = 300, columns: int = 5) -> None:
    """Films with their frames: green found, red fallen back."""
    sheet = Image.new("RGB", (columns * tile_px, -(-len(paths) // columns) * tile_px))
    for number, path in enumerate(paths):
        grey = read_grey(path)
        found = finder.find(to_square(grey, SIZE_PX))
        tile = Image.fromarray(to_square(grey, tile_px)).convert("RGB")
        _outline(ImageDraw.Draw(tile), found, f"{number} {found.confidence:.2f}", tile_px)
        sheet.paste(tile, (number % columns * tile_px, number // columns * tile_px))
    sheet.save(out)


def _outline(draw: ImageDraw.ImageDraw, found: FoundFrame, title: str, tile_px: int) -> None:
    left, top, right, bottom, midline = (value * tile_px for value in found.frame)
    draw.rectangle((left, top, right, bottom), outline="lime" if found.found else "red")
    draw.line((midline, top, midline, bottom), fill="yellow")
    draw.text((3, 3), title, fill="yellow")


if __name__ == "__main__":
    main()
