"""FAULTS 20: every trick of an archive that we know, each refused, and nothing outside the target."""

from __future__ import annotations

import gzip
import io
import os
import random
import stat
import tarfile
import zipfile
from contextlib import suppress

import pytest

from kdistill.errors import InputError, PolicyError
from kdistill.studies.archives import ArchiveLimits, archive_files, extract, is_archive, only_folder

SMALL = ArchiveLimits(total_bytes=1_000_000, entry_bytes=400_000, entries=50, depth=6)


def zipped(path, entries, compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in entries:
            archive.writestr(name, data)
    return path


def zip_entry(name, mode):
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, mode << 16
    return info


def tarred(path, entries, mode="w:gz"):
    with tarfile.open(path, mode) as archive:
        for name, data in entries:
            info = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def special(name, kind, link=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


@pytest.fixture
def target(tmp_path):
    folder = tmp_path / "out" / "inside"
    folder.mkdir(parents=True)
    return folder


def everything_outside(tmp_path):
    return sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if "inside" not in p.parts)


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz", "zip"])
def test_an_honest_archive_comes_out_byte_for_byte(mode, tmp_path, target):
    entries = [("set/studies.csv", b"a,b\n"), ("set/images/Bild größe 1.png", os.urandom(200_000)), ("set/empty", b"")]
    path = tmp_path / "data.bin"
    path = zipped(path, entries) if mode == "zip" else tarred(path, entries, mode)
    assert is_archive(path)
    assert extract(path, target, SMALL) == 3
    assert {n: (target / n).read_bytes() for n, _ in entries} == dict(entries)
    assert only_folder(target) == target / "set"


NAMES = [
    "../escape",
    "a/../../escape",
    "/tmp/escape",
    "..\\escape",
    "C:\\escape",
    "C:/escape",
    "a/\x1b[31m",
    "a/\u202egnp.x",
    "x" * 300,
    "a/" * 700 + "b",
    "1/2/3/4/5/6/7/deep",
    "\x00",
    "..",
]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_names_that_lead_out_or_hide_something_are_refused(kind, name, tmp_path, target):
    if kind == "tar" and name == "\x00":
        pytest.skip("a tar header ends a name at NUL: there is no such name")
    path = tmp_path / "bad"
    entries = [("good.png", b"good"), (name, b"evil")]
    if kind == "zip":
        zipped(path, entries[:1] if name == "\x00" else entries)
        if "\x00" in name:  # zipfile would cut it when writing
            path.write_bytes(path.read_bytes().replace(b"good.png", b"go\x00d.png"))
    else:
        tarred(path, entries)
    before = everything_outside(tmp_path)
    with pytest.raises(PolicyError) as caught:
        extract(path, target, SMALL)
    assert everything_outside(tmp_path) == before
    assert "escape" not in str(caught.value) and "\x1b" not in str(caught.value)


@pytest.mark.parametrize(
    "entry",
    [
        special("link", tarfile.SYMTYPE, "/etc/passwd"),
        special("hard", tarfile.LNKTYPE, "good.png"),
        special("device", tarfile.CHRTYPE),
        special("disk", tarfile.BLKTYPE),
        special("pipe", tarfile.FIFOTYPE),
    ],
    ids=lambda info: info.name,
)
def test_links_and_devices_in_a_tar_are_refused(entry, tmp_path, target):
    path = tarred(tmp_path / "bad.tar.gz", [("good.png", b"good"), (entry, b"")])
    with pytest.raises(PolicyError, match="link, a device"):
        extract(path, target, SMALL)
    assert [p.name for p in target.iterdir()] == ["good.png"]


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK])
def test_links_and_devices_in_a_zip_are_refused(kind, tmp_path, target):
    path = zipped(tmp_path / "bad.zip", [(zip_entry("x", kind | 0o777), b"/etc/passwd")])
    with pytest.raises(PolicyError, match="link or a device"):
        extract(path, target, SMALL)
    assert list(target.iterdir()) == []


def test_a_link_then_a_file_through_it_writes_nothing_outside(tmp_path, target):
    path = tarred(tmp_path / "bad.tar", [(special("d", tarfile.SYMTYPE, str(tmp_path)), b""), ("d/evil", b"x")], "w")
    with pytest.raises(PolicyError):
        extract(path, target, SMALL)
    assert not (tmp_path / "evil").exists()


def test_a_link_that_stood_in_the_target_is_not_written_through(tmp_path, target):
    victim = tmp_path / "victim"
    victim.write_text("kept")
    (target / "a.png").symlink_to(victim)
    with pytest.raises(PolicyError):
        extract(zipped(tmp_path / "z.zip", [("a.png", b"evil")]), target, SMALL)
    assert victim.read_text() == "kept"


def written(target):
    return sum(p.stat().st_size for p in target.rglob("*") if p.is_file())


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_a_bomb_is_stopped_by_the_bytes_that_it_writes(kind, tmp_path, target):
    """306 kB that would write 300 MB: stopped after the free 50 MB and 50 times the archive."""
    zeros = [("zeros", bytes(300_000_000))]
    path = zipped(tmp_path / "z", zeros) if kind == "zip" else tarred(tmp_path / "z", zeros)
    assert path.stat().st_size < 350_000
    with pytest.raises(PolicyError, match="unpacks to more than"):
        extract(path, target)
    assert written(target) <= 50_000_000 + 50 * path.stat().st_size


def test_a_size_that_lies_is_not_believed(tmp_path, target):
    """The directory of the zip says 10 bytes; what counts is what comes out."""
    path = zipped(tmp_path / "z.zip", [("a", bytes(900_000))])
    data = path.read_bytes()
    path.write_bytes(data.replace((900_000).to_bytes(4, "little"), (10).to_bytes(4, "little")))
    with pytest.raises((PolicyError, InputError)):
        extract(path, target, SMALL)
    assert written(target) <= SMALL.entry_bytes


def test_one_file_above_its_limit_and_many_small_ones_in_all(tmp_path, target):
    noise = random.Random(0).randbytes(500_000)
    with pytest.raises(PolicyError, match="a file of more than 400,000 bytes"):
        extract(zipped(tmp_path / "one.zip", [("a", noise)]), target, SMALL)
    many = [(f"{n}.bin", noise[:300_000]) for n in range(6)]
    with pytest.raises(PolicyError, match="unpacks to more than 1,000,000 bytes"):
        extract(tarred(tmp_path / "many.tar", many, "w"), target, SMALL)


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_too_many_entries(kind, tmp_path, target):
    entries = [(f"{n}", b"") for n in range(60)]
    path = zipped(tmp_path / "m", entries) if kind == "zip" else tarred(tmp_path / "m", entries)
    with pytest.raises(PolicyError, match="more than 50 entries"):
        extract(path, target, SMALL)


def test_a_long_table_of_contents_is_refused_before_it_is_read(tmp_path, target):
    path = zipped(tmp_path / "m.zip", [(f"{n:05}" + "x" * 200, b"") for n in range(1000)])
    limits = ArchiveLimits(entries=10)
    with pytest.raises(PolicyError, match="table of contents"):
        extract(path, target, limits)


def test_a_huge_header_is_refused_before_it_is_in_memory(tmp_path, target):
    """A pax record of 300 MB in a tar.gz of 300 kB."""
    record = tarfile.TarInfo("pax")
    record.type, record.size = tarfile.XHDTYPE, 300_000_000
    path = tmp_path / "h.tar.gz"
    with gzip.open(path, "wb") as file:
        file.write(record.tobuf(tarfile.USTAR_FORMAT))
        for _ in range(300):
            file.write(bytes(1_000_000))
    with pytest.raises(PolicyError, match="header"):
        extract(path, target)


def test_sparse_files_are_refused(tmp_path, target):
    """GNU sparse: some bytes in the archive, a terabyte on the disk."""
    info = tarfile.TarInfo("sparse")
    info.type = tarfile.GNUTYPE_SPARSE
    path = tmp_path / "s.tar"
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[386:398], header[398:410], header[483:495] = b"0" * 12, b"0" * 12, b"00010000000\x00"
    header[148:156] = b" " * 8
    header[148:156] = f"{sum(header):06o}\0 ".encode()
    path.write_bytes(bytes(header) + bytes(10240))
    with pytest.raises(PolicyError, match="sparse"):
        extract(path, target, SMALL)


def test_names_that_stand_twice_are_refused(tmp_path, target):
    for entries in ([("a", b"1"), ("A", b"2")], [("x/y", b"1"), ("x", b"2")], [("x", b"1"), ("x/y", b"2")]):
        for path in (zipped(tmp_path / "d.zip", entries), tarred(tmp_path / "d.tar", entries)):
            place = target / f"{len(list(target.iterdir()))}"
            place.mkdir()
            with pytest.raises(PolicyError, match="twice|of one name"):
                extract(path, place, SMALL)


def test_archives_inside_and_system_files_stay_out(tmp_path, target):
    inner = zipped(tmp_path / "inner", [("bomb", bytes(100_000))]).read_bytes()
    entries = [("a.png", b"\x89PNG"), ("inner.zip", inner), ("b.tgz", gzip.compress(b"x")), ("__MACOSX/a.png", b"x")]
    entries += [("._a.png", b"x"), (".DS_Store", b"x")]
    assert extract(zipped(tmp_path / "o.zip", entries), target, SMALL) == 1
    assert [p.name for p in target.rglob("*")] == ["a.png"]


@pytest.mark.parametrize("kind", ["zip", "w:gz", "w:xz", "w:bz2", "w"])
def test_damage_at_any_place_is_one_error(kind, tmp_path):
    noise = random.Random(1).randbytes(20_000)
    whole = tmp_path / "whole"
    entries = [("a.png", noise), ("b.png", noise)]
    data = (zipped(whole, entries) if kind == "zip" else tarred(whole, entries, kind)).read_bytes()
    between_entries = 512 + 20_480  # where a plain tar reads like a whole one with fewer files
    last = between_entries if kind == "w" else len(data) - 700
    for number, end in enumerate([13, 300, len(data) // 3, len(data) // 2, last]):
        (folder := tmp_path / f"t{number}").mkdir()
        (path := tmp_path / f"cut{number}").write_bytes(data[:end])
        with pytest.raises((InputError, PolicyError)):
            extract(path, folder, SMALL)
    rng = random.Random(2)
    for number in range(40):
        damaged = bytearray(data)
        for _ in range(8):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        (folder := tmp_path / f"m{number}").mkdir()
        (path := tmp_path / f"mutated{number}").write_bytes(bytes(damaged))
        with suppress(InputError, PolicyError):  # any other exception fails the test
            extract(path, folder, SMALL)


@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz"])
def test_a_stream_cut_or_damaged_behind_the_last_file_is_noticed(mode, tmp_path):
    """All files came out, but their checksum stands behind them."""
    data = tarred(tmp_path / "whole", [("a.png", random.Random(1).randbytes(20_000))], mode).read_bytes()
    for number, bad in enumerate([data[:-6], data[:-6] + bytes(6)]):
        (folder := tmp_path / f"t{number}").mkdir()
        (path := tmp_path / f"bad{number}").write_bytes(bad)
        with pytest.raises(InputError, match="damaged"):
            extract(path, folder, SMALL)


def test_encrypted_and_unknown_files_say_what_to_do(tmp_path, target):
    path = zipped(tmp_path / "e.zip", [("a", b"x" * 100)])
    data = bytearray(path.read_bytes())
    data[6] |= 1
    data[data.rindex(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(bytes(data))
    with pytest.raises(InputError, match="encrypted"):
        extract(path, target, SMALL)
    (plain := tmp_path / "x.zip").write_bytes(b"no archive at all")
    assert not is_archive(plain) and not is_archive(tmp_path / "absent")
    with pytest.raises(InputError, match="no archive"):
        extract(plain, target, SMALL)


def test_files_that_the_caller_does_not_read_are_counted_all_the_same(tmp_path):
    path = tarred(tmp_path / "u.tar", [(f"{n}", os.urandom(300_000)) for n in range(6)], "w")
    with pytest.raises(PolicyError, match="unpacks to more"):
        for _ in archive_files(path, SMALL):
            pass
