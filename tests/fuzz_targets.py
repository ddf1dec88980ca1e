"""Targets of tests/fuzz.py: inputs made from the golden vectors, and what decodes them."""

from __future__ import annotations

import atexit
import importlib.util
import io
import json
import os
import random
import re
import shutil
import sqlite3
import struct
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, redirect_stderr, redirect_stdout, suppress
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import independent_reader as second
from helpers_cli import PASSWORD, Place, Sizes, make_tree, small
from helpers_formats import describe_entry, framed, read_at_of
from pyarchiver.cas import ini
from pyarchiver.cas.catalogue import Catalogue
from pyarchiver.cas.decrypt import decrypt
from pyarchiver.cas.find import Filters, find
from pyarchiver.cas.local import LocalStorage
from pyarchiver.cas.objects import entries_of, open_object, read_contents
from pyarchiver.cas.planner import Request, plan
from pyarchiver.cas.progress import Quiet
from pyarchiver.cas.restore import restore
from pyarchiver.cas.settings import parse
from pyarchiver.cas.status import status
from pyarchiver.cas.unlock import unlock
from pyarchiver.formats import header as headers
from pyarchiver.formats import recovery, wire
from pyarchiver.formats.block import compressor
from pyarchiver.formats.entry import ENTRIES_RAW, decode_entries
from pyarchiver.formats.errors import ArchiverError
from pyarchiver.formats.header import Header
from pyarchiver.formats.keys import ReadKeys
from pyarchiver.formats.names import parse_name
from pyarchiver.formats.payload import Index, Type
from pyarchiver.formats.sealed import Opener, find_header, seal_object
from test_formats_hostile import DECODERS

FOLDER = Path(__file__).parent / "vectors"
VECTORS = json.loads((FOLDER / "vectors.json").read_text(encoding="ascii"))
KEYS = ReadKeys(*(bytes.fromhex(VECTORS[name]) for name in ("archive_id", "archive_key", "seed")))
SMALL = [item for item in VECTORS["objects"] if item["segments"] == 1]
NUMBERS = [0, 1, -1, 127, 128, 255, 256, 16384, 16385, 1 << 20, (1 << 31) - 1, 1 << 31,
           (1 << 32) - 1, 1 << 32, 1 << 56, 1 << 60, (1 << 62) - 1, 1 << 62, (1 << 63) - 1,
           1 << 63, (1 << 64) - 1, -(1 << 63)]  # fmt: skip
OUTSIDE = [b"..", b"../x", b"/etc/x", b"a/../../x", b"a//b", b"nul\0", b"", b".", b"x" * 300]
HOSTILE_SCHEMA = [
    "CREATE TRIGGER t AFTER INSERT ON runs BEGIN DELETE FROM objects; END",
    "CREATE TRIGGER sqliteXt AFTER INSERT ON runs BEGIN DELETE FROM objects; END",
    "CREATE VIEW v AS SELECT 1",
    "DROP TABLE thaws; CREATE VIEW thaws AS WITH RECURSIVE n(x) AS"
    " (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT x AS object, 1 AS asked, 1 AS ready,"
    " 1 AS until, 1 AS confirmed FROM n",
    "CREATE VIRTUAL TABLE f USING fts5(x)",
    "DROP INDEX staged",
    "ALTER TABLE config ADD COLUMN more TEXT",
]
SCALARS: list[Any] = [None, True, False, 0.5, "", "a", b"", bytes(16), bytes(32), [], {}, [[]]]
Random = random.Random

# Mutations


def mutate(chance: Random, data: bytes, rounds: int = 3) -> bytes:
    """Bytes changed, inserted, removed, repeated, cut off, or replaced by a telling number."""
    out = bytearray(data)
    for _ in range(chance.randint(1, rounds)):
        at = chance.randint(0, len(out))
        match chance.randrange(7):
            case 0 if at < len(out):
                out[at] ^= 1 << chance.randrange(8)
            case 1 if at < len(out):
                out[at] = chance.randrange(256)
            case 2:
                out[at:at] = chance.randbytes(chance.randint(1, 9))
            case 3:
                del out[at : at + chance.randint(1, 40)]
            case 4:
                del out[at:]
            case 5:
                start = chance.randint(0, len(out))
                out[at:at] = out[start : start + chance.randint(1, 200)]
            case _:
                size = chance.choice([4, 8])
                number = chance.choice(NUMBERS) % (1 << 8 * size)
                out[at : at + size] = number.to_bytes(size, chance.choice(["little", "big"]))
    return bytes(out)


def mutate_value(chance: Random, value: Any) -> Any:
    """A msgpack value with something inside it exchanged, doubled or left out."""
    if isinstance(value, dict) and value and chance.random() < 0.85:
        value = dict(value)
        name = chance.choice(sorted(value, key=repr))
        match chance.randrange(8):
            case 0:
                del value[name]
            case 1:
                value[chance.choice(["Critical", "new", "kind", "size", "runs"])] = value[name]
            case _:
                value[name] = mutate_value(chance, value[name])
        return value
    if isinstance(value, list | tuple) and value and chance.random() < 0.85:
        value = list(value)
        at = chance.randrange(len(value))
        match chance.randrange(8):
            case 0:
                del value[at]
            case 1:
                value += [value[at]] * chance.choice([1, 2, 100])
            case _:
                value[at] = mutate_value(chance, value[at])
        return value
    if isinstance(value, bytes) and chance.random() < 0.7:
        return chance.choice([*OUTSIDE, mutate(chance, value), value * 2, value[:-1]])
    if type(value) is int and chance.random() < 0.8:
        return chance.choice([*NUMBERS, value + 1, value - 1])
    if isinstance(value, str) and chance.random() < 0.7:
        return chance.choice(["\udcff", "\0", value + "x", "../x", "x" * 1000])
    return chance.choice([*SCALARS, *NUMBERS])


def mutate_packed(chance: Random, data: bytes) -> bytes:
    """One msgpack value or several, mutated as values or as bytes."""
    if chance.random() < 0.3:
        return mutate(chance, data)
    try:
        values = list(wire.unpack_each(data, len(data)))
        at = chance.randrange(len(values))
        values[at] = mutate_value(chance, values[at])
        return b"".join(wire.pack(value) for value in values)
    except (ArchiverError, ValueError, OverflowError, IndexError):
        return mutate(chance, data)


def mutate_body(chance: Random, kind: int, body: bytes) -> bytes:
    """The body of a record, behind its compression."""
    if kind == Type.ENTRIES and chance.random() < 0.9:
        skipped: list[str] = []
        list(decode_entries(memoryview(body), skipped))
        raw = second.unzstd(body, None, 4 << 20, 4 << 20)
        return compressor(3, ENTRIES_RAW).compress(mutate_packed(chance, raw))
    if kind in (Type.BLOCK, Type.PADDING, Type.TAIL):
        return mutate(chance, body)
    return mutate_packed(chance, body)


# Golden objects, opened


class Golden:
    """A golden object: its header, object key and records."""

    def __init__(self, said: dict[str, Any]) -> None:
        self.name: str = said["name"]
        self.data = (FOLDER / said["file"]).read_bytes()
        read_at = read_at_of(self.data)
        found = find_header(read_at, len(self.data))
        self.header, self.key = found.header, found.header.object_key(KEYS)
        opener = Opener(found, self.key, read_at, len(self.data))
        self.payload = bytes(opener.read(0, len(self.data)))
        self.records = list(framed(self.payload))

    def mutated_payload(self, chance: Random) -> bytes:
        """Records mutated, left out, doubled or swapped; index and tail as they were, or right."""
        if chance.random() < 0.2:
            return mutate(chance, self.payload) or b"\1"
        bodies = [(kind, body) for kind, _, body in self.records]
        match chance.randrange(5):
            case 0:
                del bodies[chance.randrange(len(bodies))]
            case 1:
                bodies.insert(chance.randrange(len(bodies)), chance.choice(bodies))
            case _:
                at = chance.randrange(len(bodies))
                kind, body = bodies[at]
                bodies[at] = kind, mutate_body(chance, kind, body)
        return assemble(chance, bodies)


def assemble(chance: Random, bodies: list[tuple[int, bytes]]) -> bytes:
    """A payload of these records; mostly with an index that finds them and a right tail."""
    out = bytearray()
    rows: list[list[int]] = []
    index_at, mend = 0, chance.random() < 0.8
    for kind, body in bodies:
        if kind == Type.INDEX and mend:
            body = mended(body, rows)
        if kind == Type.INDEX:
            index_at = len(out)
        if kind == Type.TAIL and mend:
            body = struct.pack("<QQ", index_at, len(out) + 21)
        if kind not in (Type.INDEX, Type.PADDING, Type.TAIL):
            rows.append([kind, len(out), len(body), 0])
        out += struct.pack("<BI", kind, len(body)) + body
    return bytes(out)


def mended(body: bytes, rows: list[list[int]]) -> bytes:
    """An index body whose rows are where the records are; chunks as they were."""
    try:
        value = wire.unpack(body)
        counts = [row[3] for row in value["records"] if row[0] == Type.BLOCK]
    except (ArchiverError, TypeError, KeyError, IndexError):
        return body
    for row in rows:
        if row[0] == Type.BLOCK and counts:
            row[3] = counts.pop(0)
    value["records"] = rows
    return wire.pack(value)


@cache
def golden() -> list[Golden]:
    return [Golden(said) for said in SMALL]


@cache
def ring() -> second.Ring:
    """The second reader's keys of the golden archive."""
    opened = second.Ring("")
    opened.keys[KEYS.archive_id] = second.Keys(KEYS.seed + KEYS.archive_key)
    return opened


# Targets


class Memory:
    """A storage of one object in memory."""

    def __init__(self, data: bytes) -> None:
        self._read_at = read_at_of(data)
        self._size = len(data)

    def get_into(self, name: str, start: int, into: memoryview) -> int:
        return self._read_at(start, into)

    def size(self, name: str) -> int:
        return self._size

    def close(self) -> None:
        pass


def plain_decoder(chance: Random) -> None:
    """Each decoder of formats/ by itself."""
    decode, sound = DECODERS[chance.choice(list(DECODERS))]
    data = chance.choice(sound)
    decode(mutate_packed(chance, data) if chance.random() < 0.5 else mutate(chance, data))


def sealed_again(chance: Random) -> None:
    """An object of mutated records, sealed by somebody who has the keys; both readers."""
    this = chance.choice(golden())
    payload = this.mutated_payload(chance)
    data = seal_object(this.header, this.key, [payload])
    entries = read_by_ours(data)
    try:
        other = second.Object(this.name, data, ring())
    except second.Refused:
        return
    theirs = list(other.entries())
    # A damage that one of them sees may end its reading earlier than the other's.
    if entries is not None and not other.damage:
        mine = [(each["path"], each["run"], each["sequence"], each["size"]) for each in entries]
        others = [(e.path.hex(), e.run, e.sequence, e.fields.get("size", 0)) for e in theirs]
        if mine != others:
            raise AssertionError(f"the readers disagree: {mine} and {others}")


def read_by_ours(data: bytes) -> list[dict[str, Any]] | None:
    """The entries that our reader finds, None where it reports damage."""
    opened = open_object(Memory(data), "object", lambda _: KEYS)
    assert opened is not None
    contents = read_contents(opened)
    entries = [describe_entry(entry) for entry in entries_of(contents)]
    for body in contents.indexes:
        Index.decode(body)
    return None if contents.damage else entries


def forged_header(chance: Random) -> None:
    """An object whose header was forged, through a keyring with the golden password."""
    open_whatever(forged(chance))


def forged(chance: Random) -> bytes:
    """An object: header fields mutated, its MAC and sealed key made anew."""
    this = chance.choice(golden())
    size = int.from_bytes(this.header.raw[8:12], "little")
    fields = mutate_packed(chance, this.header.raw[12 : 12 + size])
    front = headers.MAGIC + struct.pack("<I", len(fields)) + fields
    front += KEYS.writer().seal_object_key(this.key, front)
    front += KEYS.header_mac(front)
    raw = front + struct.pack("<I", len(front) + 12) + headers.END_MAGIC
    if chance.random() < 0.2:
        raw = mutate(chance, raw)
    header = Header(this.header.suite, KEYS.archive_id, bytes(16), 1, (), raw)
    return seal_object(header, this.key, [this.payload])


def open_whatever(data: bytes) -> None:
    """An object through a keyring that has only the golden password, as decrypt opens it."""
    from pyarchiver.cas.unlock import Keyring

    opened = open_object(Memory(data), "object", Keyring(VECTORS["password"]).keys)
    if opened is not None:
        list(entries_of(read_contents(opened)))


def damaged_object(chance: Random) -> None:
    """The bytes of a sealed object, as a storage may change them."""
    data = mutate(chance, chance.choice(golden()).data, rounds=6)
    opened = open_object(Memory(data), "object", lambda _: KEYS)
    if opened is not None:
        list(entries_of(read_contents(opened)))


def whole_decrypt(chance: Random) -> None:
    """A folder of golden objects, some forged: nothing outside the destination changes."""
    with tempfile.TemporaryDirectory(dir=shared()) as work:
        folder = Path(work) / "objects"
        folder.mkdir()
        for this in golden():
            data = this.data
            if chance.random() < 0.3:
                data = seal_object(this.header, this.key, [this.mutated_payload(chance)])
            if chance.random() < 0.8:
                (folder / this.name).write_bytes(data)
        out = Path(work) / "out"
        out.mkdir()
        try:
            decrypt(folder, out, VECTORS["password"], Request(), Quiet())
        finally:
            check_destination(Path(work), out)


@cache
def script() -> ModuleType:
    """rescue.py, as a module."""
    path = Path(__file__).parents[1] / "cas" / "kit_files" / "rescue.py"
    spec = importlib.util.spec_from_file_location("rescue_fuzzed", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@contextmanager
def quiet() -> Iterator[None]:
    """Nothing is printed."""
    with redirect_stderr(io.StringIO()), redirect_stdout(io.StringIO()):
        yield


def rescue_readers(chance: Random) -> None:
    """Each reader of rescue.py by itself: only its own error comes out."""
    rescue, this = script(), chance.choice(golden())
    data = this.mutated_payload(chance)
    with tempfile.TemporaryDirectory(dir=shared()) as work, quiet():
        path = Path(work) / "object"
        match chance.randrange(3):
            case 0:
                path.write_bytes(forged(chance))
            case 1:
                path.write_bytes(mutate(chance, this.data, rounds=6))
            case _:
                path.write_bytes(seal_object(this.header, this.key, [data]))
        keys = rescue.Keys(KEYS.archive_id, KEYS.seed, KEYS.archive_key)
        for header in rescue.headers_of(path)[0]:
            with suppress(rescue.Bad):
                read_by_rescue(rescue, rescue.Object(path, header, keys))


def read_by_rescue(rescue: ModuleType, found: Any) -> None:
    """Segments, records, entries and chunks."""
    archive = rescue.Archive(found.keys)
    archive.add(found)
    list(found.records())
    archive.read()
    for ordinal in range(min(99, len(rescue.table_of(found)))):
        with suppress(rescue.Bad):
            found.chunk(ordinal)


def whole_rescue(chance: Random) -> None:
    """A folder of golden objects, some forged or altered, through all of rescue.py."""
    rescue = script()
    with tempfile.TemporaryDirectory(dir=shared()) as work:
        folder = Path(work) / "objects"
        folder.mkdir()
        for this in golden():
            data = this.data
            if chance.random() < 0.3:
                data = seal_object(this.header, this.key, [this.mutated_payload(chance)])
            elif chance.random() < 0.2:
                data = forged(chance)
            if chance.random() < 0.8:
                (folder / this.name).write_bytes(data)
        out = Path(work) / "out"
        out.mkdir()
        with suppress(SystemExit), quiet():
            found = {path: rescue.headers_of(path) for path in sorted(folder.iterdir())}
            archive = rescue.open_all(folder, VECTORS["password"], found)
            archive.read()
            rescue.restore(archive, out)
        check_destination(Path(work), out)


def check_destination(work: Path, out: Path) -> None:
    """Nothing beside it, nothing with set-id bits, no more disk than the objects can fill."""
    beside = {path.name for path in work.iterdir()}
    if beside != {"objects", "out"}:
        raise AssertionError(f"written outside the destination: {beside}")
    used = 0
    for folder, _, files in os.walk(os.fsencode(out)):
        for name in files:
            found = os.lstat(folder + b"/" + name)
            used += found.st_blocks * 512
            if found.st_mode & 0o6000:
                raise AssertionError(f"set-id bits of {name!r}")
    if used > 64 << 20:
        raise AssertionError(f"{used} bytes on disk")


def shared() -> str | None:
    return "/dev/shm" if os.path.isdir("/dev/shm") else None


def ini_file(chance: Random) -> None:
    """The ini file that `start` reads."""
    text = ini.template("photos", "/source", "/storage").encode()
    lines = text.splitlines(keepends=True)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(lines))
        match chance.randrange(4):
            case 0:
                del lines[at]
            case 1:
                lines.insert(at, chance.choice(lines))
            case 2:
                name = lines[at].split(b"=")[0]
                lines[at] = name + b"= " + chance.choice([b"9" * 99, b"%s", b"~nobody/x", b"\xff"])
            case _:
                lines[at] = mutate(chance, lines[at])
    with tempfile.NamedTemporaryFile(dir=shared()) as file:
        file.write(b"".join(lines))
        file.flush()
        read = ini.read_ini(Path(file.name))
        parse(read.values(), Path("/"))


def names_and_codes(chance: Random) -> None:
    """Object names and recovery codes."""
    name = mutate(chance, chance.choice(SMALL)["name"].encode()).decode("utf-8", "replace")
    parsed = parse_name(name)
    if parsed is not None and str(parsed) != name:
        raise AssertionError(f"{name} reads as {parsed}")
    recovery.decode(mutate(chance, VECTORS["recovery_code"].encode()).decode("utf-8", "replace"))


@cache
def sound_archive() -> Place:
    """An archive of two runs whose .archive is mutated."""
    place = Place(Path(tempfile.mkdtemp(prefix="fuzz-", dir=shared())))
    atexit.register(shutil.rmtree, place.work)
    with small(Sizes()):
        make_tree(place.source, files=4, size=20_000)
        place.start(Sizes())
        (place.source / "empty").unlink()
        place.resume()
    return place


def hostile_catalogue(chance: Random) -> None:
    """An .archive that somebody made or changed: as bytes, or by SQL."""
    place = sound_archive()
    with tempfile.TemporaryDirectory(dir=shared()) as work:
        path = Path(work) / "x.archive"
        shutil.copyfile(place.archive, path)
        if chance.random() < 0.5:
            path.write_bytes(mutate(chance, path.read_bytes(), rounds=8))
        else:
            change_rows(chance, path)
        with small(Sizes()):
            use_catalogue(path, Path(work) / "out", place.storage)


def change_rows(chance: Random, path: Path) -> None:
    """Cells of any table replaced by values of any type; sometimes the schema itself."""
    schema = with_schema(path, lambda sql: re.sub(r"STRICT(, )?", "", sql).rstrip())
    with closing(sqlite3.connect(path)) as connection:
        for _ in range(chance.randint(1, 3)):
            table = chance.choice(sorted(name for name, sql in schema if "CREATE TABLE" in sql))
            columns = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
            column, key = chance.choice(columns), columns[0]
            rows = connection.execute(f"SELECT {key}, {column} FROM {table} LIMIT 50").fetchall()
            if rows:
                where, old = chance.choice(rows)
                with suppress(sqlite3.IntegrityError):
                    change = f"UPDATE {table} SET {column} = ? WHERE {key} = ?"
                    connection.execute(change, (hostile_cell(chance, old), where))
        connection.commit()
    with_schema(path, dict(schema).get)
    if chance.random() < 0.1:
        with closing(sqlite3.connect(path)) as connection:
            connection.executescript(chance.choice(HOSTILE_SCHEMA))


def with_schema(path: Path, change: Callable[[str], str | None]) -> list[tuple[str, str]]:
    """Rewrite what the schema says of each table, behind SQLite's back; what it said before."""
    with closing(sqlite3.connect(path)) as connection:
        found = connection.execute("SELECT name, sql FROM sqlite_schema WHERE sql > ''").fetchall()
        connection.execute("PRAGMA writable_schema = ON")
        for name, sql in found:
            new = change(sql) or change(name) or sql
            connection.execute("UPDATE sqlite_schema SET sql = ? WHERE name = ?", (new, name))
        connection.commit()
    return found


def hostile_cell(chance: Random, old: Any) -> Any:
    if isinstance(old, bytes) and chance.random() < 0.7:
        return mutate_packed(chance, old)
    if isinstance(old, str) and chance.random() < 0.5:
        return chance.choice(["../../x", "/nowhere/x", "", old + "x", "\0"])
    number = chance.choice([each for each in NUMBERS if -(1 << 63) <= each < 1 << 63])
    return chance.choice([None, number, number, 0.5, "text", b"", bytes(40)])


def use_catalogue(path: Path, out: Path, objects: Path) -> None:
    """What the commands do that read: status, list, find, restore."""
    with Catalogue.open(path, write=False) as catalogue:
        status(catalogue)
        list(catalogue.listing(None, deleted=True))
        list(catalogue.remaining())
        list(find(catalogue, "*", Filters()))
        plan(catalogue, Request(), Quiet())
        keys = unlock(catalogue, PASSWORD)
        with closing(LocalStorage(objects)) as storage:
            restore(catalogue, storage, keys, out, Request(), Quiet())


TARGETS: dict[str, Callable[[Random], None]] = {
    "decoders": plain_decoder,
    "sealed again": sealed_again,
    "forged header": forged_header,
    "damaged object": damaged_object,
    "decrypt": whole_decrypt,
    "rescue's readers": rescue_readers,
    "rescue": whole_rescue,
    "ini": ini_file,
    "names and codes": names_and_codes,
    "catalogue": hostile_catalogue,
}
