"""Evidence that is blurred over: what changes, what does not, and where there is none."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient

from kdistill.explain.batch import image_of
from kdistill.serve.counterfactual_sets import occluded_steps
from kdistill.serve.occlusion import occlude
from kdistill.studies.decoding import DecoderPool

from ..explain.conftest import radiograph
from .reacting import Reacting, done, explained, pixels, png, serving

PATCHES = ((5, 2), (5, 3))


@pytest.fixture
def client(reacting: Reacting, studies: Path) -> Iterator[TestClient]:
    with serving(reacting, studies) as found:
        yield found


def test_an_occlusion_changes_the_evidence_and_nothing_else(client: TestClient) -> None:
    result = explained(client, "/v1/explain", content=png(radiograph()))["result"]
    found = done(client, f"{result}/counterfactuals/Edema?steps=2")
    before, after = (pixels(client, step) for step in found["steps"])
    allowed, inside = np.zeros((2, 512, 512), bool)
    for row, column in PATCHES:
        inside[64 * row : 64 * row + 64, 64 * column : 64 * column + 64] = True
        allowed[64 * row - 16 : 64 * row + 80, 64 * column - 16 : 64 * column + 80] = True  # the soft border: 1/32
    assert np.array_equal(before[~allowed], after[~allowed]) and (before[inside] != after[inside]).mean() > 0.5
    assert "no healthy image" in found["made"] and "(2 of 64 patches, 70% of the evidence)" in found["made"]
    assert "(2 of 64 patches)" in found["summary"] and found["side"] is None
    assert client.get(found["steps"][0]["result"]).json() == client.get(result).json()
    last = client.get(found["steps"][1]["result"]).json()
    assert last["study_id"] == "uploaded image with the evidence for Edema blurred to 0"
    assert client.delete(result).status_code == 204  # and with the image goes what was made of it
    assert client.get(f"/v1/counterfactuals/{found['id']}").status_code == 404
    assert client.get(found["steps"][1]["result"]).status_code == 404


def test_an_occluded_copy_can_not_be_written_into_the_patients_study() -> None:
    with DecoderPool() as pool:
        image = image_of("x", png(radiograph()), 64, pool)._replace(header=object())  # type: ignore[arg-type]
    grid = np.zeros((8, 8))
    grid[2, 3] = 1
    occluded = occlude(image.pixels, image.display, tuple(map(tuple, grid)))
    whole, *copies = occluded_steps(image, occluded, "Edema", 3)
    assert whole is image and all(copy.header is None and copy.sha256 != image.sha256 for copy in copies)
    assert occluded.patches.sum() == 1 and np.array_equal(copies[-1].pixels, occluded.pixels)


def test_without_an_answer_there_is_no_evidence(client: TestClient, reacting: Reacting) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (128, 128)).astype(np.uint8)
    refused = explained(client, "/v1/explain", content=png(noise))["result"]
    answer = client.post(f"{refused}/counterfactuals/Edema")
    assert answer.status_code == 409 and "gave no answer" in answer.text
    reacting.go.clear()
    job = client.post("/v1/explain", content=png(radiograph())).json()
    assert client.post(f"/v1/results/{job['id']}/counterfactuals/Edema").status_code == 409
    reacting.go.set()
