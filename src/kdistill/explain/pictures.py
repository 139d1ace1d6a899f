"""Images for pages: X-rays and evidence maps as PNG data URIs, on one fixed colour scale."""

from __future__ import annotations

import base64
import io
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

#: The scale's top: attention of a patch that holds 32 times its equal share. The same on every page, so that a diffuse
#: map looks diffuse; a scale stretched to each map's own maximum would make every map look sure.
SCALE_TOP: Final = 32.0
#: The browser smooths them to the size of the film; larger ones only make the page slow to write.
OVERLAY_PX: Final = 128


@lru_cache(maxsize=1)
def colour_table() -> NDArray[np.uint8]:
    """Viridis, uint8 [256, 3]: perceptually even and readable with every common colour vision deficiency."""
    from matplotlib import colormaps

    return np.asarray(colormaps["viridis"](np.arange(256))[:, :3] * 255).round().astype(np.uint8)


def colour_hex(strength: float) -> str:
    """The colour of a strength in [0, 1] as #rrggbb."""
    red, green, blue = colour_table()[round(min(max(strength, 0.0), 1.0) * 255)]
    return f"#{red:02x}{green:02x}{blue:02x}"


def evidence_strength(evidence_map: NDArray[np.floating]) -> NDArray[np.float32]:
    """Attention on the fixed scale: log(a * P) / log(32), cut to [0, 1].

    0 is the equal share 1 / P of an attention that looks everywhere, 1 is 32 times that.

    Args:
        evidence_map: [G, G], sums to 1.
    """
    share = np.maximum(np.asarray(evidence_map, dtype=np.float64) * np.size(evidence_map), 1e-12)
    return np.clip(np.log(share) / np.log(SCALE_TOP), 0.0, 1.0).astype(np.float32)


def png_uri(pixels: NDArray[np.uint8]) -> str:
    """uint8 [H, W] (grey), [H, W, 3] or [H, W, 4] -> data: URI of a PNG."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def overlay_pixels(evidence_map: NDArray[np.floating], size_px: int = OVERLAY_PX) -> NDArray[np.uint8]:
    """The coloured evidence map as RGBA, uint8 [size_px, size_px, 4]: opaque where strong, clear at the equal share."""
    strength = Image.fromarray(evidence_strength(evidence_map)).resize((size_px, size_px), Image.Resampling.BILINEAR)
    values = np.clip(np.asarray(strength), 0.0, 1.0)
    # Sixteen steps are enough for the eye and halve the page.
    levels = np.rint(values * 15) / 15
    colours = colour_table()[np.rint(levels * 255).astype(np.intp)]
    alpha = np.rint(255 * np.minimum(1.0, 1.6 * levels)).astype(np.uint8)
    return np.concatenate([colours, alpha[..., None]], axis=-1)


def overlay_uri(evidence_map: NDArray[np.floating], size_px: int = OVERLAY_PX) -> str:
    """The coloured evidence map as a PNG data URI."""
    return png_uri(overlay_pixels(evidence_map, size_px))


def blended(image: NDArray[np.uint8], evidence_map: NDArray[np.floating], opacity: float = 0.65) -> NDArray[np.uint8]:
    """X-ray [S, S] with its evidence map painted on, uint8 [S, S, 3], where images cannot be laid over one another."""
    overlay = overlay_pixels(evidence_map, image.shape[0]).astype(np.float32)
    alpha = overlay[..., 3:] / 255 * opacity
    grey = np.repeat(image[..., None].astype(np.float32), 3, axis=-1)
    return np.rint(grey * (1 - alpha) + overlay[..., :3] * alpha).astype(np.uint8)


def where_peak(evidence_map: NDArray[np.floating], *, is_side_doubtful: bool = False) -> str:
    """The map's peak in words: the patient's right is on the image's left, where nothing speaks against that."""
    rows, columns = evidence_map.shape
    row, column = np.unravel_index(int(np.argmax(evidence_map)), evidence_map.shape)
    height = ("upper", "middle", "lower")[min(2, 3 * (2 * int(row) + 1) // (2 * rows))]
    across = (int(column) + 0.5) / columns
    left, right = ("picture's left", "picture's right") if is_side_doubtful else ("patient's right", "patient's left")
    side = left if across < 0.42 else right if across > 0.58 else "midline"
    return f"{height} third, {side}"
