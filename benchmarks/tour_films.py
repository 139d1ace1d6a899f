"""The films that `tour_pictures.py` shows: read by a served run, and chosen by what the model says of them."""

from __future__ import annotations

import io
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import httpx
import numpy as np
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian, generate_uid

from kdistill.observations import NO_FINDING, SUPPORT_DEVICES
from kdistill.studies.phantom.config import PhantomConfig
from kdistill.studies.phantom.render import render
from kdistill.studies.phantom.world import plans_of_test_study

#: Seed of the films that are sent: not one of a recipe. Side in pixels, millimetres a pixel, and how many are drawn.
SEED, SIDE_PX, SPACING_MM, NUM_FILMS = 404, 1400, 0.25, 8
PATIENCE_S: Final = 300.0
NUM_TRIES: Final = 5
_ANOTHER: Final = re.compile(r" moved by [+−]")


@dataclass(frozen=True)
class Read:
    """A film, what the model says of it and what is known: `sample` is its number, or `film` its bytes."""

    explanation: dict[str, Any]
    present: frozenset[str]
    sample: int | None = None
    film: bytes = b""

    @property
    def high(self) -> list[dict[str, Any]]:
        """Findings above their thresholds, devices and "No Finding" apart; the surest first."""
        found = [o for o in self.explanation["observations"] if o["state"] == "present"]
        found = [o for o in found if o["name"] not in (NO_FINDING, SUPPORT_DEVICES)]
        return sorted(found, key=lambda o: -(o["probability"] or 0.0))

    @property
    def right(self) -> list[dict[str, Any]]:
        """Those of them that are there."""
        return [o for o in self.high if o["name"] in self.present]

    @property
    def is_right(self) -> bool:
        """Whether something was found, and nothing that is not there."""
        return bool(self.high) and len(self.right) == len(self.high)

    @property
    def flags(self) -> list[dict[str, Any]]:
        """What objects."""
        found: list[dict[str, Any]] = self.explanation["flags"]
        return found


def dicom(grey: np.ndarray, **tags: object) -> bytes:
    """A film of 12 bits with a window that cuts off both ends. `grey`: float [H, W] in [0, 1]."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = ComputedRadiographyImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = generate_uid()
    dataset.Modality, dataset.PhotometricInterpretation = "CR", "MONOCHROME2"
    dataset.Rows, dataset.Columns = grey.shape
    dataset.SamplesPerPixel, dataset.PixelRepresentation = 1, 0
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.ImagerPixelSpacing = [SPACING_MM, SPACING_MM]
    dataset.WindowCenter, dataset.WindowWidth = 2048, 3600
    dataset.update(Dataset() if not tags else _with(tags))
    dataset.PixelData = np.rint(248 + 3600 * np.clip(grey, 0, 1)).astype("<u2").tobytes()
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def _with(tags: dict[str, object]) -> Dataset:
    found = Dataset()
    for keyword, value in tags.items():
        setattr(found, keyword, value)
    return found


def drawn(index: int) -> tuple[np.ndarray, frozenset[str]]:
    """A phantom film and what is on it."""
    plan = plans_of_test_study(PhantomConfig(seed=SEED), index)[0]
    small = Image.fromarray(render(plan, SIDE_PX // 2).image)
    large = np.asarray(small.resize((SIDE_PX, SIDE_PX), Image.Resampling.BICUBIC))
    return large, frozenset(finding.observation for finding in plan.findings)


class Api:
    """The server's API, in a session of its own."""

    def __init__(self, url: str) -> None:
        self._client = httpx.Client(base_url=url, timeout=PATIENCE_S)
        self._client.get("/v1/session")

    def _result(self, path: str, data: bytes = b"") -> dict[str, Any]:
        """The answer; on a busy machine an image may wait too long, and is sent again."""
        for _ in range(NUM_TRIES):
            answer = self._client.post(path, content=data)
            if answer.status_code == 503:
                continue
            answer.raise_for_status()
            job = answer.json()["id"]
            while (stage := self._client.get(f"/v1/jobs/{job}").json()["stage"]) in ("waiting", "reading"):
                time.sleep(0.05)
            if stage == "done":
                found: dict[str, Any] = self._client.get(f"/v1/results/{job}").json()
                return found
        raise SystemExit(f"{path}: no answer in {NUM_TRIES} tries; is the machine too busy?")

    def samples(self) -> list[Read]:
        """Every sample, read."""
        numbers = [item["number"] for item in self._client.get("/v1/samples").json()]
        return [self._sample(number) for number in numbers]

    def _sample(self, number: int) -> Read:
        truth = self._client.get(f"/v1/samples/{number}/truth").json()
        present = frozenset(truth["present"] or ())
        return Read(self._result(f"/v1/samples/{number}/explain"), present, number)

    def film(self, data: bytes, present: frozenset[str]) -> Read:
        """A film that is sent."""
        return Read(self._result("/v1/explain", data), present, None, data)

    def without(self, read: Read, name: str) -> str:
        """What happens where a finding is taken away from a sample, in the server's words ("" where it cannot be)."""
        answer = self._client.post(f"/v1/samples/{read.sample}/counterfactuals/{name}", params={"steps": 2})
        if answer.status_code == 409:
            return ""
        made = answer.json()
        while made["stage"] in ("waiting", "reading"):
            time.sleep(0.05)
            made = self._client.get(f"/v1/counterfactuals/{made['id']}").json()
        return str(made["summary"] or "")


def best(films: Sequence[Read], rank: Callable[[Read], tuple[float, ...] | None], what: str) -> Read:
    """The film with the highest rank; None: it does not show the state at all."""
    ranked = [(rank(film), film) for film in films]
    fit = [(key, film) for key, film in ranked if key is not None]
    if not fit:
        raise SystemExit(f"no film of this run shows {what}: take another run")
    return max(fit, key=lambda pair: pair[0])[1]


def sided(film: Read) -> tuple[float, ...] | None:
    """For the map: all that was found is there and on one side, and nothing objects."""
    fit = film.is_right and not film.flags and film.right[0]["side"] in ("left", "right")
    return (film.right[0]["probability"],) if fit else None


def busy(film: Read) -> tuple[float, ...] | None:
    """For the whole page: something is found that is there, something is indeterminate, and a check objects."""
    unsure = [o for o in film.explanation["observations"] if o["state"] == "uncertain"]
    about = [flag for flag in film.flags if flag["observation"]]
    if film.explanation["abstained"] or not (film.right and unsure and about):
        return None
    return film.is_right, -len(film.flags), film.right[0]["probability"]


def sayings(film: Read) -> tuple[float, ...] | None:
    """For the mirrored film: its report names sides."""
    report = f"{film.explanation['findings']} {film.explanation['impression']}"
    sides = len(re.findall(r"\b(?:left|right)\b", report, re.IGNORECASE))
    return (sides,) if sides and film.explanation["is_side_doubtful"] else None


def torn(film: Read) -> tuple[float, ...] | None:
    """For the contradiction: on a finding that was found and is there, among as few other objections as possible."""
    names = {flag["observation"] for flag in film.flags if flag["code"] == "contradiction"}
    about = [o for o in film.right if o["name"] in names]
    return (-len(film.flags), about[0]["probability"]) if about else None


def missed(film: Read) -> tuple[float, ...] | None:
    """For the two readers: several findings are there, and the model has some of them."""
    left = film.present - {o["name"] for o in film.high} - {NO_FINDING}
    return (len(film.present), -len(film.flags)) if film.right and left else None


def reacting(api: Api, films: Sequence[Read]) -> tuple[Read, str]:
    """For the slider: a finding that takes its sentence along, and another finding where there is one."""
    found: list[tuple[tuple[bool, bool, float], Read, str]] = []
    for film in films:
        for item in film.right:
            words = api.without(film, item["name"])
            if " took " in words:
                key = "its sentence is gone" in words, _ANOTHER.search(words) is not None, item["probability"]
                found.append((key, film, item["name"]))
    if not found:
        raise SystemExit("no sample of this run reacts where a finding is taken away: take another run")
    return max(found, key=lambda entry: entry[0])[1:]


@dataclass(frozen=True)
class Chosen:
    """A film for each state."""

    reading: Read
    evidence: Read
    contradiction: Read
    two_readers: Read
    slider: tuple[Read, str]
    mirrored: bytes
    upside_down: bytes


def choose(url: str) -> Chosen:
    """Read everything and choose; a line for each choice is printed."""
    api = Api(url)
    samples = api.samples()
    grey = [drawn(index) for index in range(NUM_FILMS)]
    sent = [api.film(dicom(pixels), present) for pixels, present in grey]
    reading = best(sent, busy, "a finding, an indeterminate one and an objection")
    pixels = grey[sent.index(reading)][0]
    mirrored = [dicom(one[:, ::-1], PatientOrientation=["R", "F"]) for one, _ in grey]
    turned = [api.film(data, present) for data, (_, present) in zip(mirrored, grey, strict=True)]
    chosen = Chosen(
        reading,
        best(samples, sided, "a finding on one side without an objection"),
        best(samples, torn, "a contradiction about a finding"),
        best(samples, missed, "findings of which the model misses one"),
        reacting(api, samples),
        best(turned, sayings, "a side in a report").film,
        dicom(pixels[::-1]),
    )
    of = {"evidence": chosen.evidence, "contradiction": chosen.contradiction, "two readers": chosen.two_readers}
    for name, read in {**of, "slider": chosen.slider[0]}.items():
        print(f"{name}: sample {(read.sample or 0) + 1}, there: {', '.join(sorted(read.present))}")
    print(f"reading: film {sent.index(reading)} of seed {SEED}, there: {', '.join(sorted(reading.present))}")
    return chosen
