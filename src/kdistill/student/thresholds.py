"""Decision thresholds, saved beside the weights and bound to them by hash."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from kdistill.artifact import sha256_file
from kdistill.errors import WeightsError
from kdistill.observations import NUM_OBSERVATIONS
from kdistill.records import Record
from kdistill.weights import weight_files

THRESHOLDS = "thresholds.json"


class Thresholds(Record):
    """Probability from which an observation is stated, in the order of OBSERVATIONS.

    `label_source` says which labels of the validation split they were chosen on, `num_positive` how many positives
    each observation had there (with none or all, the threshold is 0.5).
    """

    values: tuple[float, ...]
    label_source: str
    num_positive: tuple[int, ...]
    weights_sha256: dict[str, str]


def save_thresholds(model_dir: Path, values: Sequence[float], label_source: str, num_positive: Sequence[int]) -> None:
    """Write thresholds.json, bound to the weight files that stand in `model_dir` now."""
    record = Thresholds(
        values=tuple(values),
        label_source=label_source,
        num_positive=tuple(num_positive),
        weights_sha256=_hashes(model_dir),
    )
    (model_dir / THRESHOLDS).write_text(json.dumps(record.model_dump(mode="json"), indent=1) + "\n", encoding="utf-8")


def load_thresholds(model_dir: Path) -> Thresholds | None:
    """Read thresholds.json; None where the model has none (an arm without a label head).

    Raises:
        WeightsError: Damaged, of another length, or chosen for other weights.
    """
    path = model_dir / THRESHOLDS
    if not path.is_file():
        return None
    try:
        record = Thresholds.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValidationError) as error:
        raise WeightsError("is damaged", where=str(path), remedy="Train or publish this student again.") from error
    if len(record.values) != NUM_OBSERVATIONS or not all(0.0 <= value <= 1.0 for value in record.values):
        raise WeightsError(f"does not hold {NUM_OBSERVATIONS} probabilities", where=str(path))
    if record.weights_sha256 != _hashes(model_dir):
        raise WeightsError(
            "the thresholds were chosen for other weights than those beside them",
            where=str(path),
            remedy="Keep model.safetensors and thresholds.json of one student together.",
        )
    return record


def _hashes(model_dir: Path) -> dict[str, str]:
    return {file.name: sha256_file(file) for file in weight_files(model_dir)}
