"""What CheXpert, CheXpert Plus and BRAX write alike: image paths, views, sex, the 14 label columns, official parts.

Sources: Irvin et al. 2019, arXiv:1901.07031 (columns and label values); Chambon et al. 2024, arXiv:2405.19538.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, Literal, NamedTuple

from kdistill.observations import NO_FINDING, OBSERVATIONS, LabelState
from kdistill.records import Split
from kdistill.studies.config import CheXpertSource
from kdistill.studies.table import Problems, parse_state, read_columns, split_of, table_header

Part = Literal["train", "valid", "test"]

#: Anything may stand before the part ("CheXpert-v1.0-small/"); nothing can lead out of it.
_PATH: Final = re.compile(
    r"(?:^|/)(?P<part>train|valid|val|test)/(?P<patient>patient\d+)/(?P<study>study\d+)(?:/(?P<file>[\w-]+\.\w+))?$"
)
_SEX: Final[Mapping[str, str | None]] = {"Male": "M", "Female": "F", "M": "M", "F": "F", "O": "O", "Unknown": None}


class ImageName(NamedTuple):
    """Where an image lies, as the tables say it.

    Attributes:
        part: Folder of the official part: train, valid, val or test.
        patient: Such as patient00001; one numbering for all parts, and for CheXpert Plus.
        study: Such as study1, counted within the patient.
        file: The file's name; "" where the table names the study only.
    """

    part: str
    patient: str
    study: str
    file: str

    @property
    def study_dir(self) -> str:
        """The study's folder below the folder that holds the parts."""
        return f"{self.part}/{self.patient}/{self.study}"

    @property
    def patient_id(self) -> str:
        """The patient's id in our studies, the same for CheXpert and CheXpert Plus."""
        return f"chexpert-{self.patient}"


def parse_image_name(text: str) -> ImageName | None:
    """Read a path of the tables; None for one of another form.

    >>> parse_image_name("CheXpert-v1.0-small/train/patient00001/study1/view1_frontal.jpg")
    ImageName(part='train', patient='patient00001', study='study1', file='view1_frontal.jpg')
    """
    found = _PATH.search(text)
    return ImageName(found["part"], found["patient"], found["study"], found["file"] or "") if found else None


def view_of(frontal_lateral: str, ap_pa: str, file: str) -> str | None:
    """The view as we write it; what the file is called counts where the table has no such column.

    A few frontal images carry LL or RL in AP/PA; they are frontal by name and column; the projection is unknown.

    >>> view_of("Frontal", "AP", ""), view_of("Frontal", "LL", ""), view_of("", "", "view2_lateral.jpg")
    ('AP', 'FRONTAL', 'LATERAL')
    """
    kind = frontal_lateral.lower() or next((kind for kind in ("frontal", "lateral") if kind in file), "")
    match kind:
        case "frontal":
            return ap_pa if ap_pa in ("AP", "PA") else "FRONTAL"
        case "lateral":
            return "LATERAL"
        case _:
            return None


def stream(path: Path, required: Sequence[str], optional: Sequence[str] = ()) -> Iterator[tuple[int, dict[str, str]]]:
    """Lines of a large table as (line number, cells) with these columns only, `optional` ones where it has them.

    Raises:
        InputError: As `read_columns`.
    """
    header = table_header(path)
    names = (*required, *(name for name in optional if name in header))
    for line, values in read_columns(path, names):
        yield line, dict(zip(names, values, strict=True))


def sex_code(text: str) -> str | None:
    """M, F or O as the other sources write it; None where it is unknown."""
    return _SEX.get(text, text or None)


def label_columns(row: Mapping[str, str], line: int, problems: Problems, file: str = "") -> dict[str, LabelState]:
    """The label columns that the table has. "No Finding" is 1 or unknown: its 0 says only that something is there."""
    states: dict[str, LabelState] = {}
    for name in OBSERVATIONS:
        if name in row:
            try:
                states[name] = parse_state(row[name])
            except ValueError as error:
                problems.add(line, f"{name}: {error}", file)
    return without_denial(states)


def without_denial(states: dict[str, LabelState]) -> dict[str, LabelState]:
    """The states with "No Finding" 1 or None (see INTERFACE)."""
    return {name: None if name == NO_FINDING and state != 1 else state for name, state in states.items()}


def split_of_part(part: Part, patient_id: str, parts: Collection[Part], config: CheXpertSource) -> Split:
    """The split of a study of an official part.

    Args:
        part: Its part.
        patient_id: Decides, by hash, within train.
        parts: The parts that the data set has here; what none of them serves is split off train.
        config: Says what the valid part is.
    """
    served = {_served(other, config) for other in parts if other != "train"}
    if part != "train":
        return _served(part, config)
    return split_of(
        patient_id,
        validate_share=0.0 if "validate" in served else config.validate_share,
        test_share=0.0 if "test" in served else config.test_share,
    )


def _served(part: Part, config: CheXpertSource) -> Split:
    return config.valid_as if part == "valid" else "test"
