"""CheXpert Plus (Chambon et al. 2024, arXiv:2405.19538): reports, their order and demographics to CheXpert's images."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from kdistill.errors import InputError
from kdistill.observations import OBSERVATIONS, LabelState
from kdistill.records import Study
from kdistill.studies.config import CheXpertPlusStudies
from kdistill.studies.sources.chexpert_format import (
    ImageName,
    Part,
    parse_image_name,
    sex_code,
    split_of_part,
    stream,
    view_of,
    without_denial,
)
from kdistill.studies.sources.common import SourceImage, SourceTable, refuse_patients_in_two
from kdistill.studies.sources.gather import Gathered
from kdistill.studies.table import Problems, cell, parse_state

_KEYS: Final = ("path_to_image", "path_to_dcm", "deid_patient_id", "patient_report_date_order", "split")
_COLUMNS: Final = (
    *("path_to_image", "path_to_dcm", "frontal_lateral", "ap_pa", "section_clinical_history", "section_history"),
    *("section_findings", "section_impression", "age", "sex", "split"),
)
_PARTS: Final[Mapping[str, Part]] = {"train": "train", "valid": "valid"}

Row = tuple[int, dict[str, str], ImageName]


def read_chexpert_plus(config: CheXpertPlusStudies) -> SourceTable:
    """Read the table of CheXpert Plus: one study for each report, with its prior one by `patient_report_date_order`.

    The report is what the data set parsed as findings and impression; the indication is its clinical history.

    Raises:
        InputError: A file or folder is missing, or all mistakes of the table (or of the label file) with their lines.
        LeakageError: A patient stands in both official parts.
    """
    folder = Path(config.path)
    table, problems = folder / config.table, Problems(config.table)
    index = _Index(_named_rows(table, _KEYS, config, problems), problems)
    labels = _Labels(folder, config)
    root = _image_root(folder, config)
    gathered = Gathered()
    columns = (*_COLUMNS, "report") if config.labels == "report" else _COLUMNS
    for line, cells, name in _named_rows(table, columns, config, Problems(config.table)):  # its mistakes are known
        study = _study(cells, name, labels.of(cells), index, config)
        view = view_of(cells["frontal_lateral"], cells["ap_pa"], name.file)
        gathered.add(study, SourceImage(_image_path(root, name, config), view), line, problems)
    problems.raise_if_any("Mend these lines, or download the table again.")
    return gathered.table()


def _named_rows(path: Path, columns: Sequence[str], config: CheXpertPlusStudies, problems: Problems) -> Iterator[Row]:
    """The table is read twice, so that its reports are never held beside the studies that are made of them."""
    column = "path_to_dcm" if config.images == "dicom" else "path_to_image"
    for line, cells in stream(path, columns):
        name = parse_image_name(cells[column])
        if name is None or not name.file:
            problems.add(line, f"{column} is not .../patient<n>/study<n>/<image>")
        elif cells["split"] not in _PARTS:
            problems.add(line, f"split {cells['split']!r} is not train or valid")
        else:
            yield line, cells, name


class _Index:
    """What needs the whole table: which official parts it has, and the study before each.

    Attributes:
        parts: The official parts.
        priors: study_id -> the study before it, for all but each patient's first.
    """

    def __init__(self, rows: Iterable[Row], problems: Problems) -> None:
        patients: set[tuple[str, str]] = set()
        by_path: dict[str, str] = {}
        by_id: dict[str, str] = {}
        orders: dict[str, dict[str, int]] = {}
        for line, cells, name in rows:
            patients.add((name.patient, cells["split"]))
            patient_id, order = cells["deid_patient_id"], cells["patient_report_date_order"].removesuffix(".0")
            # The split goes by the patient of the path; both must tell the same patients apart.
            known = by_path.setdefault(name.patient, patient_id), by_id.setdefault(patient_id, name.patient)
            if known != (patient_id, name.patient):
                problems.add(line, "deid_patient_id and the patient of the path do not go together")
            if order.isdecimal():
                orders.setdefault(name.patient, {}).setdefault(_study_id(name), int(order))
            elif order:
                problems.add(line, f"patient_report_date_order {order!r} is no number")
        refuse_patients_in_two(
            patients, "official part", "Download the table again: the official parts share no patient."
        )
        self.parts = {_PARTS[part] for _, part in patients}
        self.priors = {study_id: prior for studies in orders.values() for study_id, prior in _priors(studies)}


def _priors(orders: Mapping[str, int]) -> Iterator[tuple[str, str]]:
    """(study, the one before it) of one patient; studies of equal order have none of each other."""
    for study_id, order in orders.items():
        before = [(earlier, other) for other, earlier in orders.items() if earlier < order]
        if before:
            yield study_id, max(before)[1]


class _Labels:
    """The CheXbert labels of one section, by the path of the image; none where the recipe takes none."""

    def __init__(self, folder: Path, config: CheXpertPlusStudies) -> None:
        self._section = config.labels
        self._states: dict[str, dict[str, LabelState]] = {}
        if self._section != "none":
            self._states = _read_labels(folder / config.labels_dir / f"{self._section}_fixed.json")

    def of(self, cells: Mapping[str, str]) -> dict[str, LabelState] | None:
        """The labels of a row; None for a row without that section: CheXbert calls an empty text "No Finding"."""
        match self._section:
            case "none":
                return None
            case "report":
                text = cells["report"]
            case _:
                text = cells[f"section_{self._section}"]
        return self._states.get(cells["path_to_image"]) if text else None


def _read_labels(path: Path) -> dict[str, dict[str, LabelState]]:
    """JSON lines with path_to_image and the 14 observations: 1.0, 0.0, -1.0 or null."""
    problems = Problems(path.name)
    found: dict[str, dict[str, LabelState]] = {}
    try:
        with path.open(encoding="utf-8-sig") as file:
            for line, text in enumerate(file, start=1):
                try:
                    if text.strip():
                        image, found_states = _label_line(text)
                        found[image] = found_states
                except ValueError as error:
                    problems.add(line, str(error))
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", where=path.name, remedy="See labels_dir.") from error
    except UnicodeDecodeError as error:
        raise InputError("is not UTF-8", where=path.name, remedy="Download it again.") from error
    problems.raise_if_any("Download the label files again (chexbert_labels).")
    return found


def _label_line(text: str) -> tuple[str, dict[str, LabelState]]:
    try:
        record = json.loads(text)
    except ValueError:
        raise ValueError("is no JSON") from None
    if not isinstance(record, dict):
        raise ValueError("is no JSON object")
    missing = [name for name in ("path_to_image", *OBSERVATIONS) if name not in record]
    if missing:
        raise ValueError(f"{', '.join(missing)} is missing")
    states = {name: None if record[name] is None else parse_state(str(record[name])) for name in OBSERVATIONS}
    return str(record["path_to_image"]), without_denial(states)


def _image_root(folder: Path, config: CheXpertPlusStudies) -> Path:
    name = config.image_root or {"png": "PNG", "dicom": "DICOM"}[config.images]
    if not (folder / name / "train").is_dir() and not (folder / name / "valid").is_dir():
        raise InputError(
            "has no folder train or valid",
            where=f"{folder.name}/{name}",
            remedy="Set image_root to the folder below `path` that holds them.",
        )
    return folder / name


def _image_path(root: Path, name: ImageName, config: CheXpertPlusStudies) -> Path:
    """The table calls every image .jpg; the files of the release are .png."""
    listed = root / name.study_dir / name.file
    if config.images == "dicom":
        return listed
    as_png = listed.with_suffix(".png")
    return listed if listed.is_file() and not as_png.is_file() else as_png


def _study_id(name: ImageName) -> str:
    return f"{name.patient_id}-{name.study}"


def _study(
    cells: dict[str, str],
    name: ImageName,
    labels: dict[str, LabelState] | None,
    index: _Index,
    config: CheXpertPlusStudies,
) -> Study:
    study_id = _study_id(name)
    return Study(
        study_id=study_id,
        patient_id=name.patient_id,
        split=split_of_part(_PARTS[cells["split"]], name.patient_id, index.parts, config),
        images=(),
        source="CheXpert Plus",
        sex=sex_code(cells["sex"]),
        age=cell(cells, "age", float),
        indication=cells["section_clinical_history"] or cells["section_history"],
        findings=cells["section_findings"],
        impression=cells["section_impression"],
        labels=labels,
        prior_study_id=index.priors.get(study_id),
    )
