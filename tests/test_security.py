"""What SECURITY.md claims, as far as no other test shows it; and that its tests are there."""

from __future__ import annotations

import ast
import json
import os
import re
import sqlite3
import stat
import sys
import zlib
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

import independent_reader as second
from helpers_cli import (
    PASSWORD,
    Place,
    Sizes,
    contents,
    make_tree,
    noise,
    run_program,
    small,
    write,
)
from helpers_formats import write_payload
from pyarchiver.cas import settings
from pyarchiver.cas.catalogue import Catalogue
from pyarchiver.cas.decrypt import decrypt
from pyarchiver.cas.planner import Request
from pyarchiver.cas.progress import Quiet
from pyarchiver.cas.unlock import unlock
from pyarchiver.cmd.main import run
from pyarchiver.formats import keys, recovery, wire
from pyarchiver.formats.aead import AEGIS256
from pyarchiver.formats.errors import AccessError, ArchiverError
from pyarchiver.formats.header import Kind, new_header, parse_front
from pyarchiver.formats.keys import WriteKeys
from pyarchiver.formats.names import parse_name
from pyarchiver.formats.padme import padme
from pyarchiver.formats.payload import Type
from pyarchiver.formats.records import About
from pyarchiver.formats.sealed import Layout, seal_object

pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")

ROOT = Path(__file__).resolve().parent.parent
FIELDS = {"version", "suite", "archive", "object", "kind", "slots"}
SLOT_FIELDS = {"type", "salt", "ops", "mem", "nonce", "sealed"}
WINDOW = 12
"""Bytes that two random texts of this size have in common once in 2^70 archives."""


def test_every_test_that_security_names_is_there() -> None:
    defined = {
        node.name
        for path in Path(__file__).parent.glob("test_*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.FunctionDef)
    }
    text = (ROOT / "SECURITY.md").read_text("utf-8")
    named = set(re.findall(r"`(test_\w+)`", text))
    assert len(named) > 25
    assert named <= defined, sorted(named - defined)
    for claim in re.findall(r"^- \*\*.*?(?=^- |^#|\Z)", text, re.MULTILINE | re.DOTALL):
        assert "`test_" in claim or "no test" in claim.lower(), f"a claim without a test: {claim}"


# An archive with telling names and content


@pytest.fixture(autouse=True)
def sizes() -> Iterator[None]:
    with small(Sizes()):
        yield


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """The same picture three times, a text, and a name that nobody should learn."""
    place = Place(tmp_path)
    make_tree(place.source, files=3, size=60_000)
    for name in ("telling name.raw", "copy of it.raw", "another copy.raw"):
        write(place.source / "Amalfi" / name, noise("picture", 150_000))
    write(place.source / "Amalfi" / "text", b"a line that stands here a thousand times\n" * 1000)
    return place


def objects(place: Place) -> dict[str, bytes]:
    """The archive's objects; the kit, which is meant to be read, is none."""
    return {path.name: path.read_bytes() for path in place.storage.iterdir()
            if parse_name(path.name)}  # fmt: skip


def windows(data: bytes) -> set[bytes]:
    return {data[at : at + WINDOW] for at in range(len(data) - WINDOW + 1)}


def body(data: bytes) -> bytes:
    header = len(parse_front(data[: 64 << 10]).raw)
    return data[header:-header]


def test_objects_carry_no_plaintext_beyond_the_header(place: Place) -> None:
    """The header has the documented fields; what follows looks random and holds no known bytes."""
    place.start(Sizes())
    seen = objects(place)
    assert {parse_front(data).kind for data in seen.values()} == {Kind.PACK, Kind.MANIFEST}
    telling = [b"Amalfi", b"telling name", b"photos", b"source", b"a line that stands", b"text",
               noise("picture", 16), os.fsencode(place.work.name), b"pyarchiver"]  # fmt: skip
    for name, data in seen.items():
        header = parse_front(data)
        size = int.from_bytes(data[8:12], "little")
        fields = wire.unpack(data[12 : 12 + size])
        assert fields.keys() == FIELDS
        assert all(slot.keys() <= SLOT_FIELDS for slot in fields["slots"])
        assert data.startswith(header.raw)
        assert data.endswith(header.raw)
        assert len(zlib.compress(body(data), 9)) > len(body(data))
        for word in telling:
            assert word not in data, f"{word!r} in {name}"


def test_all_that_an_object_names_is_random(place: Place) -> None:
    """Names have the archive's tag, a letter, a number and a random id; times are the storage's."""
    place.start(Sizes())
    place.resume()
    for name, data in objects(place).items():
        parsed, header = parse_name(name), parse_front(data)
        assert parsed is not None
        assert parsed.tag == header.archive_id[:6].hex()
        assert (parsed.kind, parsed.object_id) == (header.kind, header.object_id)


def test_sizes_of_objects_are_padme_values(place: Place) -> None:
    place.start(Sizes())
    write(place.source / "later", noise("later", 12_345))
    place.resume()
    sizes = [len(data) for data in objects(place).values()]
    assert len(sizes) >= 4
    assert all(size == padme(size) for size in sizes)


def test_equal_files_give_nothing_equal(place: Place, tmp_path: Path) -> None:
    """Not within an archive, whose slots alone are repeated, and not in two of one source."""
    place.start(Sizes())
    other = Place(tmp_path / "other")
    other.source.parent.mkdir()
    other.source.symlink_to(place.source)
    other.start(Sizes())
    bodies = [windows(body(data)) for each in (place, other) for data in objects(each).values()]
    assert len(bodies) > 3
    assert sum(map(len, bodies)) == len(set().union(*bodies))


# Who has the .archive, but no password


def everything_in(place: Place) -> bytes:
    """All values in the .archive, and its bytes, and those of all that stands beside it."""
    found = [path.read_bytes() for path in place.work.glob("photos.archive*")]
    with closing(sqlite3.connect(place.archive)) as connection:
        tables = connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")
        for (table,) in tables.fetchall():
            for row in connection.execute(f"SELECT * FROM {table}"):
                found += [each if isinstance(each, bytes) else str(each).encode() for each in row]
    return b"\n".join(found)


def test_the_archive_holds_no_key_that_reads(place: Place) -> None:
    """Neither password, code and seed, nor any object's key, is in any byte of it."""
    code = place.start(Sizes())
    place.resume()
    with Catalogue.open(place.archive, write=False) as catalogue:
        reading, writing = unlock(catalogue, PASSWORD), catalogue.keys
    secrets = {"password": PASSWORD.encode(), "code": code.encode(), "seed": reading.seed,
               "code's secret": recovery.decode(code)}  # fmt: skip
    for name, data in objects(place).items():
        secrets[name] = parse_front(data).object_key(reading)
    held = everything_in(place)
    assert writing.public_key in held
    for what, secret in secrets.items():
        assert secret not in held, what
    assert not hasattr(writing, "seed")
    assert not hasattr(writing, "open_object_key")


def test_the_archive_opens_nothing_without_password_or_code(place: Place) -> None:
    place.start(Sizes())
    with Catalogue.open(place.archive, write=False) as catalogue:
        for guess in ("", "photos", PASSWORD.lower(), bytes(16), catalogue.keys.archive_key[:16]):
            with pytest.raises(AccessError):
                unlock(catalogue, guess)


def test_the_thief_of_the_archive_can_add_and_is_not_noticed(place: Place) -> None:
    """What SECURITY.md says remains possible: an object of his own, good for every reader."""
    place.start(Sizes())
    with Catalogue.open(place.archive, write=False) as catalogue:
        stolen, slots = catalogue.keys, catalogue.slots
    forged = forge(stolen, slots)
    (place.storage / "forged").write_bytes(forged)
    observer = Quiet()
    decrypt(place.storage, place.work / "out", PASSWORD, Request(), observer)
    assert not any("forged" in problem for problem in observer.problems)
    with Catalogue.open(place.archive, write=False) as catalogue:
        assert parse_front(forged).object_key(unlock(catalogue, PASSWORD))


def forge(stolen: WriteKeys, slots: tuple[keys.Slot, ...]) -> bytes:
    """A pack that tells of nothing."""
    header, key = new_header(AEGIS256, stolen, slots, Kind.PACK)
    about = (Type.ABOUT, About(1, 0, bytes(32)).encode())
    payload, _ = write_payload(Layout(len(header.raw), header.suite.tag), [about])
    return seal_object(header, key, [payload])


def test_the_thief_of_the_archive_can_test_for_known_files(place: Place) -> None:
    """The other thing that remains possible: chunk ids are of the archive key alone."""
    place.start(Sizes())
    with Catalogue.open(place.archive, write=False) as catalogue:
        small_file = (place.source / "secret").read_bytes()
        assert catalogue.find_chunk(catalogue.keys.chunk_id(small_file)) is not None
        assert catalogue.find_chunk(catalogue.keys.chunk_id(b"never archived")) is None


# Who has less


def test_a_forger_with_the_public_key_adds_nothing(place: Place) -> None:
    """The header's MAC needs the archive key: an object without it is refused and named."""
    place.start(Sizes())
    with Catalogue.open(place.archive, write=False) as catalogue:
        known = catalogue.keys
        slots = catalogue.slots
    forger = WriteKeys(known.archive_id, bytes(32), known.public_key)
    (place.storage / "forged").write_bytes(forge(forger, slots))
    observer = Quiet()
    decrypt(place.storage, place.work / "out", PASSWORD, Request(), observer)
    assert any("forged" in problem for problem in observer.problems)
    assert contents(place.work / "out") == contents(place.source)


def test_no_object_holds_the_public_key(place: Place) -> None:
    place.start(Sizes())
    with Catalogue.open(place.archive, write=False) as catalogue:
        public = catalogue.keys.public_key
    for data in objects(place).values():
        assert public[:32] not in data
        assert public[-32:] not in data


@pytest.mark.parametrize("broken", ["ML-KEM", "X25519"])
def test_an_object_key_needs_both_halves_of_x_wing(place: Place, broken: str) -> None:
    """Whoever breaks one of the two, as a quantum computer may X25519, opens nothing."""
    place.start(Sizes())
    with Catalogue.open(place.archive, write=False) as catalogue:
        reading = unlock(catalogue, PASSWORD)
    mine = second.Keys(reading.seed + reading.archive_key)
    other = second.Keys(bytes(32) + reading.archive_key)
    header = second.parse_header(next(iter(objects(place).values())))
    assert len(mine.object_key(header)) == 32
    if broken == "X25519":
        mine.mlkem = other.mlkem
    else:
        mine.x25519 = other.x25519
    with pytest.raises(second.Refused):
        mine.object_key(header)


def test_a_replaced_object_is_refused(place: Place) -> None:
    """The storage gives one object for another: it is named, and nothing of it is written."""
    place.start(Sizes(pack=300 << 10, block=64 << 10))
    one, other, *_ = sorted(place.objects("p"))
    one.write_bytes(other.read_bytes())
    observer = Quiet()
    result = place.restore(place.work / "out", observer)
    assert result.failed
    assert any(one.name in problem for problem in observer.problems)
    found, known = contents(place.work / "out"), contents(place.source)
    assert all(known[path] == data for path, data in found.items())


# Secrets and files


def test_argon2id_has_its_parameters_in_a_real_archive(tmp_path: Path) -> None:
    """3 passes over 256 MiB: the program's own, not the cheaper ones of the other tests."""
    write(tmp_path / "source" / "file", b"content")
    ini, source = tmp_path / "a.ini", tmp_path / "source"
    run_program("init", ini, "--name", "a", "--source", source, "--storage", tmp_path / "cold")
    done = run_program("start", ini, PYARCHIVER_PASSWORD=PASSWORD)
    assert done.returncode == 0, done.stderr
    for path in (tmp_path / "cold").glob("*-p-*"):
        slots = {slot["type"]: slot for slot in parse_front(path.read_bytes()).slots}
        assert (slots[1]["ops"], slots[1]["mem"]) == (3, 256 << 20)


SECRET = "neverseen Quagmire 93 lantern"
STARTED: list[str] = []
WATCHING: list[bool] = []


def _audit(event: str, arguments: tuple[object, ...]) -> None:
    if WATCHING and event in ("subprocess.Popen", "os.exec", "os.posix_spawn", "os.system"):
        STARTED.append(repr(arguments))


sys.addaudithook(_audit)


@pytest.mark.parametrize("more", [(), ("--json",), ("-v",)])
def test_secrets_are_in_no_output_and_no_argument(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    more: tuple[str, ...],
) -> None:  # fmt: skip
    """Through a life of an archive, mistakes included; the code is printed once, by start."""
    write(tmp_path / "source" / "file", noise("file", 5000))
    ini, archive = str(tmp_path / "a.ini"), str(tmp_path / "a.archive")
    places = ["--source", str(tmp_path / "source"), "--storage", str(tmp_path / "cold")]
    monkeypatch.setenv("PYARCHIVER_PASSWORD", SECRET)
    STARTED.clear()
    WATCHING.append(True)
    assert run(["init", ini, "--name", "a", *places]) == 0
    Path(ini).write_text(
        Path(ini).read_text().replace("232 MiB", "600000").replace("512 KiB", "65536")
    )
    assert run(["start", ini, *more]) == 0
    out, err = capfd.readouterr()
    (code,) = set(re.findall(r"(?:[0-9A-Z]{4}-){7}[0-9A-Z]{4}", out + err))
    assert SECRET not in out + err
    commands = [
        ["resume", archive], ["status", archive], ["list", archive], ["start", ini],
        ["restore", archive, str(tmp_path / "one")], ["restore", archive, str(tmp_path / "a.ini")],
        ["decrypt", str(tmp_path / "cold"), str(tmp_path / "two")],
        ["decrypt", str(tmp_path / "source"), str(tmp_path / "three")],
    ]  # fmt: skip
    for command in commands:
        run([*command, *more])
    monkeypatch.setenv("PYARCHIVER_RECOVERY_CODE", code)
    run(["restore", archive, str(tmp_path / "four"), "--recovery-code", *more])
    monkeypatch.setenv("PYARCHIVER_PASSWORD", SECRET + " wrong")
    assert run(["restore", archive, str(tmp_path / "five"), *more]) == 1
    WATCHING.clear()
    out, err = capfd.readouterr()
    held = out + err + "".join(STARTED)
    assert out
    for secret in (SECRET, code, code.replace("-", "")):
        assert secret not in held
    if more == ("--json",):
        assert all(json.loads(line) for line in out.splitlines())


def test_no_credential_is_in_a_manifest(place: Place) -> None:
    """Whatever the .archive has to know of the storage's password stays in it."""
    values = {**place.settings(Sizes()).values(), **dict.fromkeys(settings.CREDENTIALS, SECRET)}
    assert settings.CREDENTIALS
    place.start(Sizes())
    with Catalogue.open(place.archive, write=True) as catalogue, catalogue.transaction():
        catalogue.set_settings(values)
    write(place.source / "later", b"later")
    place.resume()
    ring = second.Ring(PASSWORD)
    told = [found for name, data in objects(place).items()
            for found in second.Object(name, data, ring).values(7)]  # fmt: skip
    assert len(told) > 1
    assert SECRET not in str(told)
    assert SECRET.encode() in everything_in(place)


class Watching(Quiet):
    """Looks at the modes of all files while a run is under way."""

    def __init__(self, place: Place) -> None:
        super().__init__()
        self._place = place
        self.modes: dict[str, int] = {}

    def advance(self, files: int = 0, read: int = 0, stored: int = 0) -> None:
        for path in [*self._place.work.glob("photos.*"), *self._place.work.glob("photos.spool/*")]:
            self.modes[path.name] = stat.S_IMODE(path.lstat().st_mode)


def test_files_that_hold_keys_are_for_their_owner_only(place: Place) -> None:
    """The .archive, what SQLite puts beside it, and its lock, in any run and under any umask."""
    before = os.umask(0)
    try:
        watching = Watching(place)
        place.start(Sizes(), watching)
        watching.advance()
    finally:
        os.umask(before)
    assert {"photos.archive", "photos.archive-wal", "photos.archive.lock"} <= watching.modes.keys()
    assert {mode & 0o077 for mode in watching.modes.values()} == {0}


def test_the_storage_may_lie_in_any_way_and_no_wrong_byte_comes(place: Place) -> None:
    """Every object answered by the bytes of another: refused, one by one."""
    place.start(Sizes())
    seen = objects(place)
    names = sorted(seen)
    for name, other in zip(names, names[1:] + names[:1], strict=True):
        (place.storage / name).write_bytes(seen[other][: len(seen[name])])
    with suppress(ArchiverError):
        place.restore(place.work / "out", Quiet())
    known = contents(place.source)
    for path, data in contents(place.work / "out").items():
        assert known[path] == data
