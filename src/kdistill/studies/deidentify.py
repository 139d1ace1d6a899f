"""A folder or archive of DICOM files -> the plain folder layout, with nothing in it that names a patient.

Pixels are decoded and written anew (PNG without a single text chunk), so headers, private groups, overlays, icons and
what hides between them stay behind. Of the header only `released_tags` speaks. File names are replaced, rows sorted by
hash: not even the order of the input is kept. Errors are named by a closed list of reasons, because the message of a
DICOM reader may quote the file. Text burned into the pixels is another matter: of it only BurnedInAnnotation is read.
"""

from __future__ import annotations

import csv
import hashlib
import io
import logging
import os
import secrets
import shutil
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import numpy as np
from PIL import Image

from kdistill.errors import InputError, PolicyError
from kdistill.records import write_jsonl
from kdistill.studies.archives import ArchiveLimits, archive_files, is_archive
from kdistill.studies.decoding import DecoderPool
from kdistill.studies.layouts import image_files
from kdistill.studies.released_tags import READ_KEYWORDS, Released, released

STUDIES, IMAGES, REJECTED = "studies.csv", "images.csv", "rejected.jsonl"
_MIN_KEY_BYTES: Final = 16
_MAX_FILE_BYTES: Final = 1 << 30
_DEFLATED: Final = "1.2.840.10008.1.2.1.99"
_STUDY_COLUMNS: Final = ("study_id", "patient_id", "image_path", "view_position", "sex", "age")
_IMAGE_COLUMNS: Final = (
    *("image_path", "modality", "body_part", "rows", "columns", "pixel_spacing_mm", "bits_stored", "burned_in"),
)

BurnedInPolicy = Literal["refuse", "warn"]
#: Why a file was left out; nothing else is ever said of it.
Reason = Literal[
    "no_image",
    "too_large",
    "deflated_dicom",
    "pixels_unreadable",
    "compressed_pixels_unreadable",
    "burned_in_text_stated",
    "not_the_chest",
    "not_a_radiograph",
    "same_pixels_as_another",
]


#: Modalities of films, and of captures that may be films; "" where there is no header or it says nothing.
_RADIOGRAPHS: Final = frozenset({"", "CR", "DX", "DR", "RG", "OT", "SC"})


class Outcome(NamedTuple):
    """What became of the files: counts by name, reasons among them."""

    counts: dict[str, int]


def load_key(path: Path) -> bytes:
    """The secret of a key file (its raw bytes).

    Raises:
        InputError: It cannot be read or is shorter than 16 bytes.
    """
    try:
        key = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", where=path.name) from error
    if len(key) < _MIN_KEY_BYTES:
        raise InputError(
            f"is shorter than {_MIN_KEY_BYTES} bytes: it could be guessed",
            where=path.name,
            remedy="Make one with `head -c 32 /dev/urandom > key`, and keep it where the data came from.",
        )
    return key


def deidentify(
    source: Path,
    out_dir: Path,
    *,
    key: bytes | None = None,
    burned_in: BurnedInPolicy = "refuse",
    limits: ArchiveLimits | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> Outcome:
    """Write studies.csv, images.csv, images/*.png and rejected.jsonl.

    Args:
        source: A folder or an archive of DICOM, PNG or JPEG files; an archive is read in memory, never unpacked.
        out_dir: The folder to write; must not exist, or be empty. It appears when everything is done.
        key: Secret of the pseudonyms; by default one that is drawn here and forgotten, so that nobody can link them.
        burned_in: What to do with an image that states text in its pixels: leave it out, or keep and count it.
        limits: What an archive may hold.
        on_progress: Called with the number of files done.

    Raises:
        InputError: There is no file to read, or no file could be used.
        PolicyError: `out_dir` is not empty, or the archive is not safe.
    """
    if out_dir.is_dir() and any(out_dir.iterdir()):
        raise PolicyError("is not empty", where=out_dir.name, remedy="Give a folder that does not exist yet.")
    temporary = out_dir.with_name(f".{out_dir.name}.writing-{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    (temporary / "images").mkdir(parents=True)
    try:
        # What is no chest is refused here, by the closed list of body parts, with a reason of its own.
        with _quiet(), DecoderPool(require_chest=False) as pool:
            writer = _Writer(temporary, key or secrets.token_bytes(32), burned_in, pool)
            for number, content in enumerate(_contents(source, limits), start=1):
                writer.add(number, content)
                if on_progress:
                    on_progress(number)
        writer.publish()
        if not writer.rows:
            raise InputError("holds no image that can be used", where=source.name, remedy=_why(writer.counts))
        if out_dir.is_dir():
            out_dir.rmdir()
        temporary.rename(out_dir)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return Outcome(dict(writer.counts))


def _why(counts: Counter[str]) -> str:
    reasons = ", ".join(f"{name}: {count}" for name, count in counts.items() if count)
    return f"Of its files, by reason: {reasons or 'there is none'}."


@contextmanager
def _quiet() -> Iterator[None]:
    """Let no library warn or log: pydicom's warnings quote values of a file, Pillow's debug lines its EXIF."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _contents(source: Path, limits: ArchiveLimits | None) -> Iterator[bytes | None]:
    """The bytes of each file; None for one that is too large."""
    if source.is_dir():
        for path in image_files(source):
            yield path.read_bytes() if path.stat().st_size <= _MAX_FILE_BYTES else None
    elif is_archive(source):
        bounded = (limits or ArchiveLimits())._replace(entry_bytes=_MAX_FILE_BYTES)
        for entry in archive_files(source, bounded):
            yield b"".join(entry.chunks)
    else:
        raise InputError("is no folder and no archive", where=source.name, remedy="Give a folder, a .zip or a .tar.gz.")


class _Writer:
    """Decodes, judges and writes one file after the other."""

    def __init__(self, folder: Path, key: bytes, burned_in: BurnedInPolicy, pool: DecoderPool) -> None:
        self.rows: list[tuple[dict[str, object], dict[str, object]]] = []
        self.counts: Counter[str] = Counter()
        self._folder, self._key, self._burned_in, self._pool = folder, key, burned_in, pool
        self._rejected: list[dict[str, object]] = []
        self._names: set[str] = set()

    def add(self, number: int, content: bytes | None) -> None:
        """Write one file's image, or note by a reason of the closed list why not."""
        self.counts["files"] += 1
        reason = "too_large" if content is None else self._add(content)
        if reason:
            self.counts[reason] += 1
            digest = hashlib.sha256(content).hexdigest()[:16] if content else None
            self._rejected.append({"file": number, "sha256": digest, "reason": reason})

    def _add(self, content: bytes) -> Reason | None:
        is_dicom = _is_dicom(content)
        syntax = _transfer_syntax(content) if is_dicom else ""
        if syntax == _DEFLATED:
            return "deflated_dicom"  # a header that inflates a thousandfold; refused before it is read
        facts = released(_header(content) if is_dicom else {}, self._key, content)
        if facts.burned_in == "YES" and self._burned_in == "refuse":
            return "burned_in_text_stated"
        if facts.body_part == "OTHER":
            return "not_the_chest"
        if facts.modality not in _RADIOGRAPHS:  # as a PNG nothing could tell a CT slice from a film
            return "not_a_radiograph"
        try:
            pixels = self._pool.read(content).pixels
        except Exception:  # also a fault of ours: a traceback would quote the file, and the rest of the batch is whole
            return _unreadable(is_dicom, syntax)
        return self._write(facts, pixels, sixteen_bits=is_dicom or _has_sixteen_bits(content))

    def _write(self, facts: Released, pixels: np.ndarray, *, sixteen_bits: bool) -> Reason | None:
        stored = np.rint(pixels * 65535).astype(np.uint16) if sixteen_bits else np.rint(pixels * 255).astype(np.uint8)
        name = f"images/{hashlib.sha256(self._key + stored.tobytes()).hexdigest()[:20]}.png"
        if name in self._names:
            return "same_pixels_as_another"
        self._names.add(name)
        Image.fromarray(stored).save(self._folder / name, format="PNG")
        self.rows.append((_study_row(facts, name), _image_row(facts, name, pixels.shape)))
        self.counts["images"] += 1
        self.counts["images_without_a_stated_patient"] += facts.patient.startswith("unknown-")
        self.counts["images_that_state_burned_in_text"] += facts.burned_in == "YES"
        self.counts["images_that_do_not_say_whether_text_is_burned_in"] += facts.burned_in == ""
        self.counts["images_without_a_view"] += not facts.view_position
        return None

    def publish(self) -> None:
        """Write the tables, in the order of the hashes."""
        self.rows.sort(key=lambda pair: (str(pair[0]["study_id"]), str(pair[0]["image_path"])))
        _agree([study for study, _ in self.rows])
        _write_table(self._folder / STUDIES, _STUDY_COLUMNS, [study for study, _ in self.rows])
        _write_table(self._folder / IMAGES, _IMAGE_COLUMNS, [image for _, image in self.rows])
        write_jsonl(self._folder / REJECTED, self._rejected)
        self.counts["studies"] = len({study["study_id"] for study, _ in self.rows})
        self.counts["patients"] = len({study["patient_id"] for study, _ in self.rows})


def _agree(rows: list[dict[str, object]]) -> None:
    """Age and sex of a study are those of its first image that states them: its rows must not contradict each other."""
    first: dict[tuple[object, str], object] = {}
    for column in ("patient_id", "sex", "age"):
        for row in rows:
            if row[column] not in ("", None):
                first.setdefault((row["study_id"], column), row[column])
        for row in rows:
            row[column] = first.get((row["study_id"], column), "")


def _study_row(facts: Released, name: str) -> dict[str, object]:
    values = (facts.study, facts.patient, name, facts.view_position, facts.sex, facts.age)
    return dict(zip(_STUDY_COLUMNS, values, strict=True))


def _image_row(facts: Released, name: str, shape: tuple[int, ...]) -> dict[str, object]:
    values = (name, facts.modality, facts.body_part, *shape, facts.pixel_spacing_mm, facts.bits_stored, facts.burned_in)
    return dict(zip(_IMAGE_COLUMNS, values, strict=True))


def _write_table(path: Path, columns: tuple[str, ...], rows: list[dict[str, object]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _is_dicom(content: bytes) -> bool:
    return content[128:132] == b"DICM"


def _transfer_syntax(content: bytes) -> str:
    """The transfer syntax, from the file meta group alone (explicit little endian, never compressed; PS3.10 7.1)."""
    position = 132
    while position + 8 <= len(content) and content[position : position + 2] == b"\x02\x00":
        long = content[position + 4 : position + 6] in (b"OB", b"OW", b"UN", b"UT", b"SQ", b"UC", b"UR")
        start = position + (12 if long else 8)
        length = int.from_bytes(content[start - 4 : start] if long else content[start - 2 : start], "little")
        if content[position + 2 : position + 4] == b"\x10\x00":
            return content[start : start + min(length, 64)].decode("ascii", "replace").rstrip("\0 ")
        position = start + length
    return ""


def _header(content: bytes) -> Any:
    """The attributes that `released_tags` looks at; an empty mapping where they cannot be read."""
    import pydicom

    try:
        return pydicom.dcmread(io.BytesIO(content), stop_before_pixels=True, specific_tags=list(READ_KEYWORDS))
    except Exception:  # FAULTS 15
        return {}


def _unreadable(is_dicom: bool, syntax: str) -> Reason:
    from pydicom.uid import UID

    if not is_dicom:
        return "no_image"
    known = UID(syntax)
    compressed = known.is_transfer_syntax and known.is_compressed
    return "compressed_pixels_unreadable" if compressed else "pixels_unreadable"


def _has_sixteen_bits(content: bytes) -> bool:
    try:
        with Image.open(io.BytesIO(content)) as image:
            return image.mode.startswith("I")
    except (OSError, ValueError):
        return False
