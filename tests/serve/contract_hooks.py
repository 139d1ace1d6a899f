"""Loaded by schemathesis in its own process: what a valid body is, which the contract can only call binary."""

from __future__ import annotations

import os
from pathlib import Path

import schemathesis
from hypothesis import strategies as st

FILMS = [path.read_bytes() for path in sorted(Path(os.environ["KDISTILL_TEST_FILMS"]).iterdir())]
films = st.sampled_from(FILMS)
for media_type in ("application/octet-stream", "application/dicom", "image/png", "image/jpeg"):
    schemathesis.openapi.media_type(media_type, films)
