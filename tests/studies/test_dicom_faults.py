"""FAULTS 3, 11, 12, 14 to 17: files that are cut, bare, bombs, nested, hostile, or no chest radiograph."""

from __future__ import annotations

import io
import logging
import struct
import time
import zlib

import numpy as np
import pytest
from pydicom.uid import UID, ImplicitVRLittleEndian

from kdistill.cli.terminal import clean
from kdistill.errors import InputError
from kdistill.studies.dicom import decode_dicom, dicom_header
from kdistill.studies.dicom_file import MAX_INFLATED_BYTES
from kdistill.studies.film import NOTES, note_text
from kdistill.studies.images import decode_in_process

from .dicom_files import DECODED_EVERYWHERE, NATIVE, dicom, in_syntax, ramp


def meta_end(data):
    """Where the data set begins: after the header's group length."""
    return 144 + struct.unpack_from("<I", data, 140)[0]


def with_header(syntax, body):
    value = syntax.encode() + bytes(len(syntax) % 2)
    element = struct.pack("<HH2sH", 2, 0x10, b"UI", len(value)) + value
    return bytes(128) + b"DICM" + struct.pack("<HH2sHI", 2, 0, b"UL", 4, len(element)) + element + body


@pytest.mark.parametrize("syntax", DECODED_EVERYWHERE)
def test_row_3_a_dicom_cut_at_any_point_is_refused(syntax):
    data = in_syntax(syntax)
    whole = decode_in_process(data).pixels
    assert whole.shape == (40, 40)
    # Every byte of the header, then every 37th: a cut inside pixel data is the same fault at each place.
    for end in [*range(0, 700), *range(700, len(data), 37), len(data) - 2, len(data) - 1]:
        with pytest.raises(InputError):
            decode_in_process(data[:end])


def test_row_3_byte_counts_are_given():
    with pytest.raises(InputError, match=r"\(7FE0,0010\) needs 3200 bytes, 3100 are there"):
        decode_in_process(dicom(ramp())[:-100])
    with pytest.raises(InputError, match=r"stream of \d+ bytes has no end mark|needs \d+ bytes, \d+ are there"):
        decode_in_process(in_syntax("1.2.840.10008.1.2.4.50")[:-300])


def test_row_3_zeros_after_the_end_are_no_fault():
    assert np.array_equal(decode_in_process(dicom(ramp()) + bytes(300)).pixels, decode_in_process(dicom(ramp())).pixels)


@pytest.mark.parametrize("syntax", NATIVE[:3])
def test_row_3_a_bare_data_set_is_read_where_one_encoding_fits_and_it_is_said(syntax):
    data = dicom(ramp(), syntax=syntax)
    film = decode_in_process(data[meta_end(data) :])
    assert np.array_equal(film.pixels, decode_in_process(data).pixels)
    assert film.notes == ("no_preamble", "transfer_syntax_assumed")
    only_meta = decode_in_process(data[132:])
    assert np.array_equal(only_meta.pixels, film.pixels) and only_meta.notes == ("no_preamble",)


def test_row_3_without_a_syntax_compressed_pixels_are_not_guessed():
    data = in_syntax("1.2.840.10008.1.2.4.50")
    with pytest.raises(InputError, match="transfer syntax is not stated"):
        decode_in_process(data[meta_end(data) :])


def test_row_3_a_tag_that_stands_twice_is_not_guessed():
    data = dicom(ramp())
    rows = data[data.index(b"\x28\x00\x10\x00US") :][:10]
    start = data.index(rows)
    with pytest.raises(InputError, match=r"\(0028,0010\) stands twice"):
        decode_in_process(data[:start] + rows + data[start:])


def test_row_9_an_unknown_syntax_is_named_by_its_digits_only():
    data = dicom(ramp(), stream=b"\xff\xd8\x00\x00", syntax="1.2.840.10008.1.2.4.100")
    with pytest.raises(InputError, match=r"not read here \(1.2.840.10008.1.2.4.100\)"):
        decode_in_process(data)


def deflated_bomb(size):
    squeezer = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = bytes(1_000_000)
    body = struct.pack("<HH2s2xI", 0x7FE0, 0x10, b"OW", size)
    packed = squeezer.compress(body) + b"".join(squeezer.compress(block) for _ in range(size // len(block)))
    return with_header("1.2.840.10008.1.2.1.99", packed + squeezer.flush())


def test_row_11_a_deflated_bomb_is_refused_at_the_cap():
    bomb = deflated_bomb(400_000_000)
    assert len(bomb) < 1_000_000
    began = time.process_time()
    for read in (decode_in_process, dicom_header):
        with pytest.raises(InputError, match=f"more than {MAX_INFLATED_BYTES}"):
            read(bomb)
    assert time.process_time() - began < 10  # measured: 0.3 s


def test_row_11_a_deflated_file_that_is_cut_or_damaged_is_refused():
    data = dicom(ramp(), syntax="1.2.840.10008.1.2.1.99")
    with pytest.raises(InputError, match="deflated data end"):
        decode_in_process(data[:-20])
    with pytest.raises(InputError, match="damaged deflated"):
        decode_in_process(data[: meta_end(data)] + b"\xff" * 50)


def nested(depth, *, defined):
    """Sequences inside each other: of defined or undefined length."""
    inner = b""
    for _ in range(depth):
        if defined:
            item = struct.pack("<HHI", 0xFFFE, 0xE000, len(inner)) + inner
            inner = struct.pack("<HH2s2xI", 0x0008, 0x1140, b"SQ", len(item)) + item
        else:
            item = struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF) + inner + struct.pack("<HHI", 0xFFFE, 0xE00D, 0)
            inner = struct.pack("<HH2s2xI", 0x0008, 0x1140, b"SQ", 0xFFFFFFFF) + item
            inner += struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    return inner


@pytest.mark.parametrize("defined", [True, False])
def test_row_14_sequences_nested_400_deep_are_refused_and_5_deep_are_fine(defined):
    data = dicom(ramp())
    start = data.index(b"\x08\x00\x60\x00CS")
    for depth in (400, 5000):
        with pytest.raises(InputError, match="sequences deep"):
            decode_in_process(data[:start] + nested(depth, defined=defined) + data[start:])
    shallow = decode_in_process(data[:start] + nested(5, defined=defined) + data[start:])
    assert np.array_equal(shallow.pixels, decode_in_process(data).pixels)


def test_row_15_too_many_elements_are_refused_in_time():
    element = struct.pack("<HH2sH", 0x0009, 0x1001, b"US", 2) + b"\0\0"
    item = struct.pack("<HHI", 0xFFFE, 0xE000, len(element)) + element
    body = struct.pack("<HH2s2xI", 0x0008, 0x1140, b"SQ", len(item) * 200_000) + item * 200_000
    began = time.process_time()
    with pytest.raises(InputError, match="elements"):
        decode_in_process(with_header("1.2.840.10008.1.2.1", body))
    assert time.process_time() - began < 10  # measured: 0.5 s


HOSTILE = "\x1b[2J\x1b]0;owned\x07\u202egnp.\u200bSECRET\x00report normal"


def test_row_16_hostile_text_in_tags_never_reaches_a_message_raw(caplog):
    caplog.set_level(logging.DEBUG)
    tags = ("PatientName", "Modality", "BodyPartExamined", "PhotometricInterpretation", "ViewPosition", "PatientAge")
    for tag in (*tags, "PatientOrientation", "VOILUTFunction", "PresentationLUTShape", "SOPClassUID", "NumberOfFrames"):
        data = in_text(tag)
        try:
            shown = " ".join(map(note_text, decode_in_process(data, require_chest=tag != "ViewPosition").notes))
        except InputError as error:
            shown = str(error)
        assert not any(c in shown for c in "\x1b\x07\u202e\u200b\x00") and "SECRET" not in shown, tag
    logged = [record.getMessage() for record in caplog.records if record.name.startswith(("pydicom", "kdistill"))]
    assert logged == []


def in_text(tag):
    """The default file with hostile bytes as the value of one text tag."""
    element = struct.pack("<HH2sH", *_places()[tag], len(HOSTILE.encode() + b" ") // 2 * 2)
    value = HOSTILE.encode().ljust(len(HOSTILE.encode()) // 2 * 2 + len(HOSTILE.encode()) % 2 * 2, b" ")
    data = dicom(ramp(), drop=(tag,))
    return data[: meta_end(data)] + element + value + data[meta_end(data) :]


def _places():
    from pydicom.datadict import dictionary_VR, tag_for_keyword

    tags = ("PatientName", "Modality", "BodyPartExamined", "PhotometricInterpretation", "ViewPosition", "PatientAge")
    found = {}
    for keyword in (
        *tags,
        "PatientOrientation",
        "VOILUTFunction",
        "PresentationLUTShape",
        "SOPClassUID",
        "NumberOfFrames",
    ):
        tag = tag_for_keyword(keyword)
        found[keyword] = (tag >> 16, tag & 0xFFFF, dictionary_VR(tag).encode())
    return found


def test_row_16_a_name_of_ten_megabytes_costs_nothing_and_is_never_shown():
    data = dicom(ramp(), syntax=ImplicitVRLittleEndian, PatientName=None)
    name = struct.pack("<HHI", 0x0010, 0x0010, 10_000_000) + b"SECRET^NAME^" * 833_333 + b"ABCD"
    began = time.process_time()
    film = decode_in_process(data[: meta_end(data)] + name + data[meta_end(data) :])
    assert time.process_time() - began < 5 and film.pixels.shape == (40, 40)  # measured: 0.05 s
    with pytest.raises(InputError) as caught:
        decode_in_process(data[: meta_end(data)] + name + data[meta_end(data) : -10])
    assert "SECRET" not in str(caught.value) and len(str(caught.value)) < 400


def test_row_16_the_terminal_shows_code_points_instead_of_control_characters():
    shown = clean(HOSTILE)
    assert shown.startswith("\\u001b[2J") and "\\u202e" in shown and "\\u200b" in shown and "\\u0000" in shown


CT, SR, MG = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.88.33", "1.2.840.10008.5.1.4.1.1.1.2"


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        ({"Modality": "CT", "SOPClassUID": UID(CT)}, "Modality is CT"),
        ({"Modality": "MR"}, "Modality is MR"),
        ({"Modality": "SR", "SOPClassUID": UID(SR)}, "Modality is SR"),
        ({"Modality": "OT"}, "Modality is OT"),
        ({"Modality": "DX", "SOPClassUID": UID(MG)}, "SOP class"),
        ({"Modality": "DX", "BodyPartExamined": "HAND"}, "BodyPartExamined is HAND"),
        ({"BodyPartExamined": "Abdomen"}, "BodyPartExamined is ABDOMEN"),
    ],
)
def test_row_17_what_is_no_chest_radiograph_is_refused_or_noted_by_policy(tags, message):
    with pytest.raises(InputError, match=message):
        decode_dicom(dicom(ramp(), **tags))
    assert "not_a_chest_radiograph" in decode_dicom(dicom(ramp(), **tags), require_chest=False).notes


@pytest.mark.parametrize("body_part", ["CHEST", "Chest PA", "PORT CHEST", "THORAX", "LUNG", "", None, "UNKNOWN"])
def test_row_17_chests_by_any_name_are_used(body_part):
    assert decode_dicom(dicom(ramp(), BodyPartExamined=body_part)).notes == ()


@pytest.mark.parametrize(
    ("tags", "notes", "view"),
    [
        ({"ViewPosition": "PA"}, (), "PA"),
        ({"ViewPosition": "LL"}, ("lateral_view",), "LATERAL"),
        ({"ViewPosition": "LATERAL"}, ("lateral_view",), "LATERAL"),
        ({"PatientOrientation": ["P", "F"]}, ("lateral_view",), "LATERAL"),
        ({"PatientOrientation": ["L", "F"], "ViewPosition": "AP"}, (), "AP"),
        ({"PatientOrientation": ["R", "F"]}, ("orientation",), None),
        ({"PatientOrientation": ["L", "H"]}, ("orientation",), None),
        ({"PatientAge": "007Y"}, ("paediatric",), None),
        ({"PatientAge": "011M"}, ("paediatric",), None),
        ({"PatientAge": "018Y"}, (), None),
        ({"Modality": None}, ("modality_not_stated",), None),
        ({"ViewPosition": "MRS SECRET"}, (), None),
    ],
)
def test_row_17_views_and_children_are_said_to_the_caller(tags, notes, view):
    film = decode_dicom(dicom(ramp(), **tags))
    assert (film.notes, film.view_position) == (notes, view)


def test_every_note_has_a_sentence():
    assert all(note_text(note).endswith(".") for note in NOTES)


def test_a_header_comes_without_pixels_and_only_from_dicom():
    header = dicom_header(dicom(ramp()))
    assert header is not None and header.SOPInstanceUID == "1.2.3.4" and "PixelData" not in header
    assert dicom_header(b"\x89PNG") is None
    with pytest.raises(InputError):
        dicom_header(io.BytesIO(dicom(ramp())).read(400))
