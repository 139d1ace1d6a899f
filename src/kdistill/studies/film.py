"""A decoded image, and what a reader of it must be told although it is used: one code, one sentence each."""

from __future__ import annotations

from typing import Final, Literal, NamedTuple, get_args

import numpy as np

from kdistill.studies.depth import Depth

Note = Literal[
    "no_preamble",
    "transfer_syntax_assumed",
    "modality_not_stated",
    "not_a_chest_radiograph",
    "lateral_view",
    "orientation",
    "paediatric",
    "window_unusable",
    "rescale_unusable",
]

#: Every note that there is, in a fixed order.
NOTES: Final[tuple[Note, ...]] = get_args(Note)

#: The largest detectors in use give about 4300 x 3600 pixels; beyond this an "image" is an attack or a mistake.
MAX_PIXELS: Final = 64_000_000
#: Colour differences (of 255) that lossy compression makes in a grey picture.
LOSSY_COLOUR: Final = 24


class Film(NamedTuple):
    """A decoded image: float32 [H, W] in [0, 1] (bright = dense), what must be told, the view where a tag states it.

    `depth` holds the values from before the display window, where they were asked for.
    """

    pixels: np.ndarray
    notes: tuple[Note, ...] = ()
    view_position: str | None = None
    depth: Depth | None = None


def note_text(note: Note) -> str:
    """The sentence behind a note. Holds nothing that was read from the file."""
    match note:
        case "no_preamble":
            return "The DICOM file has no preamble; its data set was read from the first byte."
        case "transfer_syntax_assumed":
            return "The DICOM file does not state its transfer syntax; only one encoding can be read to its end."
        case "modality_not_stated":
            return "The DICOM file does not state its modality."
        case "not_a_chest_radiograph":
            return "By its DICOM tags this is no chest radiograph."
        case "lateral_view":
            return "By its DICOM tags this is a lateral view; the model was trained on frontal ones."
        case "orientation":
            return "By its DICOM tags the picture is mirrored or turned; it was left so: left may be right."
        case "paediatric":
            return "By its DICOM tags the patient is a child."
        case "window_unusable":
            return "The display window in the DICOM file cannot be used; the grey range was taken from the pixels."
        case "rescale_unusable":
            return (
                "The rescale slope in the DICOM file cannot be used; the grey range was taken from the stored values."
            )
