"""Contact sheets for the docs: every observation's looks, and counterfactual pairs with their masks."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from kdistill.observations import SUPPORT_DEVICES
from kdistill.records import Severity, Side, Zone
from kdistill.studies.phantom.config import PhantomConfig
from kdistill.studies.phantom.plan import VARIANTS, FindingPlan, StudyPlan
from kdistill.studies.phantom.render import Rendering, render
from kdistill.studies.phantom.world import counterfactual_plans, sample_plans

#: Grey levels kept in the figures: fewer than 256 keep a noisy PNG small, and nobody sees the difference.
_LEVELS: Final = 90
_SHOWN: Final[tuple[tuple[str, Side | None, Zone | None], ...]] = (
    ("Lung Lesion", "right", "middle"),
    ("Lung Opacity", "left", "middle"),
    ("Edema", "bilateral", None),
    ("Consolidation", "right", "upper"),
    ("Pneumonia", "right", "lower"),
    ("Atelectasis", "left", "lower"),
    ("Pneumothorax", "right", None),
    ("Pleural Effusion", "left", None),
    ("Pleural Other", "right", None),
    ("Fracture", "left", "middle"),
    ("Support Devices", "left", None),
)


def write_contact_sheet(
    path: Path, *, size_px: int = 256, seed: int = 9000, severities: tuple[Severity, ...] = ("mild", "severe")
) -> None:
    """Draw a normal chest and every variant of every observation, once for each severity, with captions."""
    tiles = [_captioned(render(_example(None, seed, severities[0]), size_px).image, "No Finding\nnormal chest")]
    tiles.append(
        _captioned(
            render(_example(None, seed, severities[0], portable=True), size_px).image,
            "No Finding\nportable tag (the shortcut)",
        )
    )
    for index, (observation, variant) in enumerate((o, v) for o, found in VARIANTS.items() for v in found):
        for severity in severities:
            finding = _finding(observation, variant, severity, seed + index + 1000 * severities.index(severity))
            drawn = render(_example(finding, seed + 1 + index, severity), size_px)
            grade = "" if observation == SUPPORT_DEVICES else finding.severity
            words = [variant.replace("_", " "), grade, finding.side or "", finding.zone or ""]
            tiles.append(_captioned(drawn.image, f"{observation}\n{' '.join(word for word in words if word)}"))
    _save(path, tiles, columns=6)


def write_pair_sheet(path: Path, *, size_px: int = 256, seed: int = 9000, num_each: int = 2) -> None:
    """Draw counterfactual pairs: before, after, difference (mid-grey is none) and the mask's outline."""
    config = PhantomConfig(size_px=size_px, num_train=50, num_validate=0, num_test=160, num_pairs=48, seed=seed)
    pairs = counterfactual_plans(sample_plans(config)["test"], config)
    tiles = []
    for kind in ("removed", "added", "moved", "shortcut"):
        chosen = [pair for pair in pairs if pair[0] == kind]
        for _, observation, before, after in chosen[3 :: max(len(chosen) // num_each, 1)][:num_each]:
            tiles += _pair_tiles(f"{observation} {kind}", observation, render(before, size_px), render(after, size_px))
    _save(path, tiles, columns=4)


def _pair_tiles(caption: str, observation: str, before: Rendering, after: Rendering) -> list[Image.Image]:
    change = np.clip(0.5 + (after.image - before.image), 0, 1)
    mask = before.masks.get(observation, after.masks.get(observation))
    shown = before.image if observation in before.masks or mask is None else after.image
    return [
        _captioned(before.image, f"{caption}\nbefore"),
        _captioned(after.image, "\nafter"),
        _captioned(change, "\nafter - before (grey: no change)"),
        _captioned(shown if mask is None else np.where(_outline(mask), 1.0, shown), "\nmask"),
    ]


def _outline(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    inner = mask[1:-1, 1:-1] & mask[:-2, 1:-1] & mask[2:, 1:-1] & mask[1:-1, :-2] & mask[1:-1, 2:]
    result = mask.copy()
    result[1:-1, 1:-1] &= ~inner
    return result


def _finding(observation: str, variant: str, severity: Severity, seed: int) -> FindingPlan:
    side, zone = next(((s, z) for name, s, z in _SHOWN if name == observation), (None, None))
    if variant == "endotracheal_tube":
        side = None
    if variant == "blunting" and severity == "severe":
        severity = "moderate"  # as in sampling: a filled angle is a small effusion
    return FindingPlan(observation, variant, severity, seed, side, zone)


def _example(finding: FindingPlan | None, seed: int, severity: Severity, portable: bool = False) -> StudyPlan:
    sex, view = ("F" if seed % 3 == 1 else "M"), ("AP" if seed % 4 == 3 else "PA")
    findings = () if finding is None else (finding,)
    return StudyPlan(f"example-{severity}", "example", seed, sex, 60.0, view, findings, portable)


def _captioned(image: NDArray[np.floating], caption: str) -> Image.Image:
    levels = np.rint(np.clip(image, 0, 1) * (_LEVELS - 1)) * (255 / (_LEVELS - 1))
    tile = Image.new("L", (image.shape[1], image.shape[0] + 28), 255)
    tile.paste(Image.fromarray(levels.astype(np.uint8)), (0, 28))
    ImageDraw.Draw(tile).text((3, 0), caption, fill=0, spacing=1)
    return tile


def _save(path: Path, tiles: list[Image.Image], columns: int) -> None:
    width, height = tiles[0].size
    rows = -(-len(tiles) // columns)
    sheet = Image.new("L", (columns * width, rows * height), 255)
    for index, tile in enumerate(tiles):
        sheet.paste(tile, (index % columns * width, index // columns * height))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path, optimize=True)
