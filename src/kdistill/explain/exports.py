"""One explanation in any of the formats that it can leave in."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from kdistill.errors import InputError, KDistillError
from kdistill.explain.config import ExplainFormat
from kdistill.explain.dicom_sr import overlay_capture, sr_document
from kdistill.explain.explanation import Explanation
from kdistill.explain.fhir import fhir_bundle
from kdistill.explain.page import explanation_page
from kdistill.explain.pdf import explanation_pdf
from kdistill.studies.dicom import quiet_pydicom

if TYPE_CHECKING:
    from pydicom import Dataset


def export(
    kind: ExplainFormat,
    explanation: Explanation,
    display: NDArray[np.uint8],
    header: Dataset | None,
    *,
    recorded: datetime,
) -> bytes:
    """The bytes of one format's file.

    Args:
        kind: Which format.
        explanation: What to export.
        display: uint8 [S, S], the film as pages show it.
        header: The image's dataset without pixels; None where it was no DICOM object.
        recorded: When the explanation was made, with a time zone.

    Raises:
        InputError: A DICOM result was asked for, and the image is no DICOM object or lacks an identifier.
        EnvironmentFault: What writes the format is not installed.
    """
    match kind:
        case "json":
            return explanation.model_dump_json().encode("utf-8")
        case "html":
            return explanation_page(explanation, display).encode("utf-8")
        case "pdf":
            return explanation_pdf(explanation, display)
        case "fhir":
            study_uid = None if header is None else header.get("StudyInstanceUID")
            bundle = fhir_bundle(explanation, recorded=recorded, study_uid=study_uid)
            return json.dumps(bundle, ensure_ascii=False, indent=1).encode("utf-8")
        case "dicom-sr":
            return _dicom_bytes(lambda: sr_document(explanation, header))
        case "dicom-sc":
            return _dicom_bytes(lambda: overlay_capture(explanation, display, header))


def _dicom_bytes(make: Callable[[], Dataset]) -> bytes:
    """What a header's odd value makes highdicom or pydicom raise or warn may quote it, and it may be a patient's.

    Raises:
        InputError: No result can be written from such a header.
    """
    buffer = io.BytesIO()
    try:
        with quiet_pydicom():
            make().save_as(buffer, enforce_file_format=True)
    except KDistillError:
        raise
    except Exception as error:
        raise InputError(
            f"has a header from which no DICOM result can be written ({type(error).__name__})",
            remedy="Mend its dates, times and identifiers, or leave dicom-sr and dicom-sc out.",
        ) from None
    return buffer.getvalue()
