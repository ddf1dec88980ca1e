#!/usr/bin/env python3
"""Gets files back from the objects of a pyarchiver archive. Needs nothing of pyarchiver.

    python3 rescue.py FOLDER DEST

FOLDER holds objects as they were downloaded: packs (names with -p-), and manifests (-m-, -c-) if
there are any. DEST is a new or empty folder. Asks for the password or the recovery code; without
a terminal it reads it from the first line of standard input.

Every path gets its latest state, deleted ones included. Every byte is verified; what is missing
or damaged is named, and no file is written that is not whole. Owners, extended attributes and
hard links are not restored: a file that had two names becomes two files.

Exit code 0: done; 1: failed; 2: wrong arguments; 3: done except for what is named.

Written from FORMAT.md; numbers in parentheses are its sections.
"""

from __future__ import annotations

import base64
import bisect
import getpass
import hashlib
import os
import stat
import struct
import sys
import tempfile
import unicodedata
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

try:
    import msgpack
    import nacl.bindings as sodium
    import nacl.exceptions
    import nacl.pwhash.argon2id
    import zstandard
    from blake3 import blake3
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
    from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, MLKEM768X25519PrivateKey, Suite
except ImportError as error:
    sys.exit(
        f"rescue: {error}. Install what is needed, best in a virtual environment:\n"
        "  python3 -m venv rescue-env\n"
        "  rescue-env/bin/pip install blake3 'cryptography>=48' msgpack 'pynacl>=1.6' zstandard\n"
        "  rescue-env/bin/python rescue.py FOLDER DEST"
    )

MIB = 1 << 20
MAGIC = b"\x89PYARC\r\n"
HEADER_MAX = 64 << 10
BODY_MAX, BLOCK_BODY_MAX = 4 * MIB, 8 * MIB + 4 * 16384 + 16
ABOUT, BLOCK, ENTRIES, PART, PACK, PACK_INDEX, RUN, INDEX, TAIL = 1, 2, 3, 4, 5, 6, 8, 10, 11
FILE, FOLDER, SYMLINK, GONE = 1, 2, 3, 4
SUITES = {
    "aegis256": (32, 32, sodium.crypto_aead_aegis256_decrypt),
    "xchacha20poly1305": (24, 16, sodium.crypto_aead_xchacha20poly1305_ietf_decrypt),
}
TROUBLES = 0


class Bad(Exception):
    """Bytes that are not what FORMAT.md says."""


def say(text: str) -> None:
    """Tell of something that is missing or damaged; the exit code becomes 3."""
    global TROUBLES
    TROUBLES += 1
    print(f"rescue: {text}", file=sys.stderr)


def counted(count: int, one: str, many: str = "") -> str:
    """A number of things."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def shown(path: bytes) -> str:
    """A path as it can be printed."""
    return ascii(os.fsdecode(path))[1:-1] if path else "."


def check(condition: object, why: str) -> None:
    """Refuse what contains an impossible value."""
    if not condition:
        raise Bad(why)


def kinds(values: Any) -> list[type]:
    """The types of values."""
    return [type(value) for value in values]


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """A file to read; Bad where the disk does not give it."""
    try:
        with path.open("rb") as file:
            yield file
    except OSError as error:
        raise Bad(f"it cannot be read: {error.strerror}") from None


def unpack_each(data: bytes) -> Iterator[Any]:
    """Msgpack values side by side. No extension types: the hook gets the empty ones (1)."""
    unpacker = msgpack.Unpacker(
        raw=False, unicode_errors="surrogateescape", max_buffer_size=len(data) + 1,
        max_ext_len=0, ext_hook=lambda *_: check(False, "an extension type"),
    )  # fmt: skip
    unpacker.feed(data)
    while unpacker.tell() < len(data):
        try:
            value = unpacker.unpack()
        except (ValueError, msgpack.UnpackException) as error:
            raise Bad(f"no msgpack value: {error}") from None
        yield value


def unpack(data: bytes) -> Any:
    """One msgpack value and nothing behind it (1)."""
    values = list(unpack_each(data))
    check(len(values) == 1, "not one msgpack value")
    return values[0]


def inflate(data: bytes, most: int, window: int) -> bytes:
    """One zstd frame of at most `most` bytes, as many as it declares (9.2, 9.3)."""
    try:
        size = zstandard.frame_content_size(data)
        check(0 < size <= most, "a zstd frame of impossible size")
        return zstandard.ZstdDecompressor(max_window_size=window).decompress(
            data, max_output_size=size, read_across_frames=False, allow_extra_data=False
        )
    except zstandard.ZstdError as error:
        raise Bad(f"it does not decompress: {error}") from None


class Header:
    """A header and its fields (4). Nothing in it is trusted before `authentic` says so."""

    def __init__(self, data: bytes) -> None:
        check(data[:8] == MAGIC and len(data) > 12, "not an object")
        length = struct.unpack_from("<I", data, 8)[0]
        check(length <= HEADER_MAX - 1224, "a header of impossible length")
        self.raw = data[: length + 1224]
        self.fields: dict[str, Any] = unpack(data[12 : 12 + length])
        check(isinstance(self.fields, dict), "a header without fields")
        check(self.fields.get("version") == 1, "of another format version: a newer program's")
        end = struct.pack("<I", len(self.raw)) + MAGIC[::-1]
        check(self.raw[-12:] == end, "a header that was cut or altered")
        suite = self.fields.get("suite")
        check(type(suite) is str and suite in SUITES, "of an unknown suite: a newer program's")
        self.archive, self.object = self.fields.get("archive"), self.fields.get("object")
        for name in (self.archive, self.object):
            check(isinstance(name, bytes) and len(name) == 16, "a header without its ids")
        slots = self.fields.get("slots")
        check(isinstance(slots, list) and len(slots) <= 16, "a header of impossible slots")
        self.slots = [slot for fields in slots if (slot := slot_of(fields))]


class Keys:
    """What a slot holds (5): opens all objects of one archive."""

    def __init__(self, archive: bytes, seed: bytes, archive_key: bytes) -> None:
        def derive(purpose: str) -> bytes:
            return blake3(archive_key, derive_key_context="pyarchiver v1 2026 " + purpose).digest()

        self.archive = archive
        self.mac, self.chunk, self.file = map(derive, ("header mac", "chunk id", "file hash"))
        expanded = hashlib.shake_256(seed).digest(96)
        self._private = MLKEM768X25519PrivateKey(
            MLKEM768PrivateKey.from_seed_bytes(expanded[:64]),
            X25519PrivateKey.from_private_bytes(expanded[64:]),
        )

    def object_key(self, header: Header) -> bytes:
        """The object's own key; Bad where the owner did not write this header (4, 5.6)."""
        raw = header.raw
        mac = blake3(raw[:-44], key=self.mac).digest()
        check(mac == raw[-44:-12] and header.archive == self.archive, "its header was altered")
        fields, sealed = raw[:-1212], raw[-1212:-44]
        suite = Suite(KEM.MLKEM768_X25519, KDF.HKDF_SHA256, AEAD.CHACHA20_POLY1305)
        try:
            info = b"pyarchiver v1 object key\0" + fields
            return bytes(suite.decrypt(sealed, self._private, info=info))
        except (InvalidTag, ValueError):
            raise Bad("its object key was altered") from None


def recovery_secret(text: str) -> bytes | None:
    """The secret in a recovery code, None where the text is none (5.3)."""
    letters = "".join(text.upper().replace("-", "").split())
    letters = letters.translate(str.maketrans("OIL", "011"))
    digits = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
    if len(letters) != 32 or set(letters) - set(digits):
        return None
    data = base64.b32decode(
        letters.translate(str.maketrans(digits, "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"))
    )
    sum_ = blake3(data[:16], derive_key_context="pyarchiver v1 2026 recovery checksum").digest()
    return data[:16] if sum_[:4] == data[16:] else None


class Slot(NamedTuple):
    """A key slot (5.1)."""

    kind: int
    salt: bytes
    nonce: bytes
    sealed: bytes
    ops: int
    mem: int

    def work(self) -> int:
        """What it costs to try, in bytes times passes."""
        return max(MIB, self.ops * self.mem) if self.kind == 1 else 0


def slot_of(fields: Any) -> Slot | None:
    """The slot in a header's field, None where it is impossible or a newer program's."""
    if not isinstance(fields, dict):
        return None
    names = ("type", "salt", "nonce", "sealed", "ops", "mem")
    slot = Slot(*(fields.get(name, 0) for name in names))
    if kinds(slot) != [int, bytes, bytes, bytes, int, int]:
        return None
    if (len(slot.salt), len(slot.nonce), len(slot.sealed)) != (16, 24, 80):
        return None
    costs = 1 <= slot.ops <= 16 and 8192 <= slot.mem <= 2 << 30
    return slot if slot.kind == 2 or (slot.kind == 1 and costs) else None


def open_slot(slot: Slot, archive: bytes, secret: str) -> Keys | None:
    """The keys in a slot, None where the secret does not open it (5.1)."""
    code = recovery_secret(secret)
    if slot.kind == 1:
        password = unicodedata.normalize("NFKC", secret).encode("utf-8", "surrogateescape")
        key = nacl.pwhash.argon2id.kdf(32, password, slot.salt, slot.ops, slot.mem)
    elif code is not None:
        context = "pyarchiver v1 2026 recovery slot"
        key = blake3(slot.salt + code, derive_key_context=context).digest()
    else:
        return None
    aad = b"pyarchiver v1 slot\0" + archive + bytes([slot.kind])
    try:
        plain = sodium.crypto_aead_xchacha20poly1305_ietf_decrypt(slot.sealed, aad, slot.nonce, key)
    except nacl.exceptions.CryptoError:
        return None
    return Keys(archive, plain[:32], plain[32:])


class Payload:
    """The payload of one object, opened segment by segment (6); of a cut one, what is there."""

    def __init__(self, path: Path, header: Header, key: bytes) -> None:
        self._path, self._key, self._header = path, key, header
        self._nonce, self._tag, self._open = SUITES[header.fields["suite"]]
        self._hash = blake3(header.raw).digest()
        with opened(path) as file:
            size, length = file.seek(0, os.SEEK_END), len(header.raw)
        self.whole = self._ends_at(size - length) or self._ends_at(self._find_end(size))
        if not self.whole:
            self._segments = max(0, size - length) // (MIB + self._tag)
            self.length = self._segments * MIB

    def _ends_at(self, end: int) -> bool:
        """Whether the segments end there: then the last one opens as the last."""
        step = MIB + self._tag
        body = end - len(self._header.raw)
        self._segments = -(-body // step)
        self.length = body - self._segments * self._tag
        if self.length < 1 or -(-self.length // MIB) != self._segments:
            return False
        self.whole = True
        try:
            self.segment(self._segments - 1)
        except Bad:
            return False
        return True

    def _find_end(self, size: int) -> int:
        """Where the header begins again, should bytes have been added or lost behind (13)."""
        start = max(len(self._header.raw), size - 4 * MIB)
        try:
            with opened(self._path) as file:
                file.seek(start)
                at = file.read().rfind(self._header.raw[:64])
        except Bad:
            return size
        return start + at if at >= 0 else size

    def segment(self, number: int) -> bytes:
        """The plain bytes of a segment; Bad where it does not open."""
        check(0 <= number < self._segments, "cut off")
        step = MIB + self._tag
        end = number == self._segments - 1
        with opened(self._path) as file:
            file.seek(len(self._header.raw) + number * step)
            data = file.read(min(step, self.length - number * MIB + self._tag))
        # Where the end is missing, the last segment there is may be one in the middle (13).
        for last in [False] if not end else [True] if self.whole else [False, True]:
            nonce = struct.pack("<QB", number, last).ljust(self._nonce, b"\0")
            try:
                return bytes(self._open(data, self._hash, nonce, self._key))
            except (nacl.exceptions.CryptoError, ValueError):
                continue
        raise Bad(f"segment {number} is damaged")

    def read(self, offset: int, length: int, partial: bool = False) -> bytes:
        """Bytes of the payload; with `partial` those before the first damage."""
        found = bytearray()
        try:
            while len(found) < length:
                at = offset + len(found)
                piece = segment_of(self, at // MIB)[at % MIB : at % MIB + length - len(found)]
                check(piece, "cut off")
                found += piece
        except Bad:
            if not partial:
                raise
        return bytes(found)

    def frame(self, offset: int) -> tuple[int, int]:
        """(type, length of the body) of the record at an offset (8)."""
        kind, length = struct.unpack("<BI", self.read(offset, 5))
        most = BLOCK_BODY_MAX if kind == BLOCK else BODY_MAX
        check(length <= most, "a record longer than allowed")
        return kind, length

    def record(self, offset: int, kind: int, length: int) -> bytes:
        """The body of a record that the index tells of."""
        check(self.frame(offset) == (kind, length), "a record is not what the index says")
        return self.read(offset + 5, length)

    def front_to_back(self) -> Iterator[tuple[int, int, int]]:
        """(type, offset, length) of all records up to the index, or to the damage."""
        offset = 0
        while True:
            kind, length = self.frame(offset)
            if kind in (INDEX, TAIL):
                return
            check(kind >= 128 or kind <= TAIL, "a record of a newer program")
            yield kind, offset, length
            offset += 5 + length

    def index(self) -> list[Any]:
        """The bodies of the index records, found through the tail (8.1, 8.2)."""
        check(self.whole, "the end is missing")
        tail = self.read(self.length - 21, 21)
        check(tail[:5] == b"\x0b\x10\0\0\0", "no tail")
        offset, length = struct.unpack("<QQ", tail[5:])
        check(length == self.length and offset < length, "an impossible tail")
        found = []
        while offset < self.length - 21:
            kind, size = self.frame(offset)
            check(kind == INDEX, "no index where the tail says")
            found.append(unpack(self.read(offset + 5, size)))
            offset += 5 + size
        return found


@lru_cache(maxsize=9)
def segment_of(payload: Payload, number: int) -> bytes:
    """The same, the last ones kept: a block may lie in nine."""
    return payload.segment(number)


class Chunk(NamedTuple):
    """Where a chunk is: its block's record, and its place in the block."""

    offset: int
    size: int
    start: int
    length: int
    id: bytes


def chunk_table(indexes: list[Any]) -> list[Chunk]:
    """All chunks of a pack by ordinal, from its index records (8.2)."""
    table = []
    try:
        for index in indexes:
            lengths = [length for (length,) in struct.iter_unpack("<I", index["lengths"])]
            ids = [index["ids"][at : at + 32] for at in range(0, len(index["ids"]), 32)]
            place = iter(zip(lengths, ids, strict=True))
            for _, offset, size, count, *_ in index["records"]:
                check(kinds((offset, size, count)) == [int, int, int], "an impossible index")
                start = 0
                for _ in range(count):
                    length, id_ = next(place)
                    table.append(Chunk(offset, size, start, length, id_))
                    start += length
    except (KeyError, TypeError, ValueError, StopIteration, RuntimeError, struct.error):
        raise Bad("an impossible index") from None
    return table


class Object:
    """A pack, manifest or checkpoint that the secret opens."""

    def __init__(self, path: Path, header: Header, keys: Keys) -> None:
        self.path, self.header, self.keys = path, header, keys
        self.kind = header.fields.get("kind")
        self.payload = Payload(path, header, keys.object_key(header))
        self.indexed = False
        self.told: list[Any] = []
        """Its index as a manifest has it, where its own cannot be used."""

    def records(self) -> Iterator[tuple[int, bytes]]:
        """(type, body) of all records but blocks."""
        try:
            rows = [row for index in self.payload.index() for row in index["records"]]
            places = iter([tuple(row[:3]) for row in rows])
            self.indexed = True
        except (Bad, KeyError, TypeError) as error:
            say(f"{self.path.name}: {error}; read from front to back as far as it goes")
            places = self.payload.front_to_back()
        while True:
            try:
                place = next(places, None)
                if place is None:
                    return
                kind, offset, length = place
                if kind != BLOCK:
                    yield kind, self.payload.record(offset, kind, length)
            except (Bad, TypeError, ValueError, struct.error) as error:
                say(f"{self.path.name}: {error}; the rest of it is used")

    def chunk(self, ordinal: int) -> bytes:
        """A chunk, verified (9.2)."""
        place = table_of(self)[ordinal]
        _, data = read_block(self.payload, place.offset, place.size)
        piece = data[place.start : place.start + place.length]
        check(blake3(piece, key=self.keys.chunk).digest() == place.id, "a chunk is damaged")
        return piece


@lru_cache(maxsize=16)
def table_of(pack: Object) -> list[Chunk]:
    """All chunks of a pack: from its index, a manifest's copy, or the chunks themselves (13)."""
    for indexes in (pack.payload.index, lambda: pack.told):
        try:
            if table := chunk_table(indexes()):
                return table
        except Bad:
            continue
    table = []
    try:
        for kind, offset, length in pack.payload.front_to_back():
            if kind != BLOCK:
                continue
            lengths, data = read_block(pack.payload, offset, length)
            start = 0
            for size in lengths:
                piece = data[start : start + size]
                check(len(piece) == size, "cut off")
                id_ = blake3(piece, key=pack.keys.chunk).digest()
                table.append(Chunk(offset, length, start, size, id_))
                start += size
    except Bad:
        pass
    return table


@lru_cache(maxsize=4)
def read_block(payload: Payload, offset: int, length: int) -> tuple[tuple[int, ...], bytes]:
    """Chunk lengths and data of a block; of a damaged one the data before the damage (9.2, 13)."""
    check(length <= BLOCK_BODY_MAX, "a block longer than allowed")
    body = payload.read(offset + 5, length, partial=True)
    check(len(body) >= 5, "cut off")
    method, count = struct.unpack_from("<BI", body)
    check(1 <= count <= 16384 and len(body) >= 5 + 4 * count, "an impossible block")
    lengths = struct.unpack_from(f"<{count}I", body, 5)
    data, total = body[5 + 4 * count :], sum(lengths)
    check(total <= 8 * MIB and method in (0, 1), "an impossible block")
    if method == 1 and len(body) == length:
        data = inflate(data, total, 8 * MIB)
    elif method == 1:
        try:
            stream = zstandard.ZstdDecompressor(max_window_size=8 * MIB).stream_reader(data)
            pieces = bytearray()
            while len(pieces) < total and (more := stream.read(min(65536, total - len(pieces)))):
                pieces += more
        except zstandard.ZstdError:
            pass
        data = bytes(pieces)
    return lengths, data


class State(NamedTuple):
    """One state of one path (10)."""

    order: tuple[int, int]
    kind: int
    mode: int
    mtime: int
    size: int
    hash: bytes
    runs: list[Any]
    link: bytes


def possible(run: Any) -> bool:
    """Whether this can be a part of a file: a hole, or chunks of an object (10.3)."""
    if type(run) is int:
        return 0 < run <= 1 << 62
    if type(run) is not list or kinds(run) != [bytes, int, int]:
        return False
    return bool(0 <= run[1] < 1 << 32 and 0 < run[2] < 1 << 32)


class Archive:
    """All that the objects of one archive say."""

    def __init__(self, keys: Keys) -> None:
        self.keys = keys
        self.packs: dict[bytes, Object] = {}
        self.log: dict[bytes, Object] = {}
        self.states: dict[tuple[bytes, bool], State] = {}
        self._manifests: list[tuple[int, int, int, bytes, bytes]] = []
        self._parts: dict[tuple[int, bytes], set[int]] = {}
        self._last_part: dict[tuple[int, bytes], int] = {}

    def add(self, found: Object) -> None:
        """Take an object in; of two copies the one that is whole."""
        if found.kind not in (1, 2, 3):
            print(f"{found.path.name}: an object of a newer program, skipped")
            return
        place = self.packs if found.kind == 1 else self.log
        # A pack is asked for by its id. An id in the log may be one that a forger took.
        key = found.header.object if found.kind == 1 else found.header.raw
        twin = place.get(key)
        if twin is None or found.payload.whole > twin.payload.whole:
            place[key] = found

    def read(self) -> None:
        """Read the entries of all objects; the newest state of each path counts (10, 12)."""
        for found in (*self.packs.values(), *self.log.values()):
            self._read(found)
        self._check_chain()

    def _read(self, found: Object) -> None:
        parts: list[bytes] = []
        about: tuple[Any, ...] = ()
        told: Object | None = None
        for kind, body in found.records():
            try:
                if kind == ABOUT:
                    fields = unpack(body)
                    says = [fields[name] for name in ("number", "part", "previous", "hash")]
                    check(kinds(says) == [int, int, int, bytes], "an impossible beginning")
                    about = tuple(says)
                elif kind == ENTRIES:
                    self._entries(inflate(body, 4 * MIB, 4 * MIB))
                elif kind == PART:
                    number, total, piece, *_ = unpack(body)
                    parts = [*(parts if number == len(parts) else []), piece]
                    check(len(parts) == number + 1 <= total <= 64, "a part of an entry is missing")
                    check(len(piece) <= MIB, "a part of an entry that is too large")
                    if len(parts) == total:
                        self._entries(b"".join(parts))
                elif kind == PACK:
                    told = self.packs.get(unpack(body)["object"])
                    told = None if told is None or told.indexed else told
                elif kind == PACK_INDEX and told is not None:
                    told.told.append(unpack(body))
                elif kind == RUN and found.kind == 3 and about:
                    self._last_part[about[0], about[3]] = about[1]
            except (Bad, KeyError, TypeError, ValueError) as error:
                say(f"{found.path.name}: {error!r}; the rest of it is used")
        if found.kind == 2 and about:
            own = b""
            try:
                with opened(found.path) as file:
                    own = blake3(file.read()).digest()
            except Bad as error:
                say(f"{found.path.name}: {error}")
            self._manifests.append((*about, own))
        if found.kind == 3 and about:
            self._parts.setdefault((about[0], about[3]), set()).add(about[1])

    def _entries(self, data: bytes) -> None:
        for entry in unpack_each(data):
            path, run, sequence, fields, *_ = entry
            kind = fields["kind"]
            check(isinstance(path, bytes) and len(path) <= 32768, "an impossible path")
            check(1 <= kind <= 4, "an entry of a newer program")
            if kind == GONE:
                continue
            state = State(
                (run, sequence), kind, fields["mode"] & 0o777, fields["mtime"],
                fields.get("size", 0), fields.get("hash", b""), fields.get("runs", []),
                fields.get("link", b""),
            )  # fmt: skip
            check(kinds((run, sequence, kind)) == [int] * 3, "an impossible entry")
            check(kinds(state[2:]) == [int, int, int, bytes, list, bytes], "an impossible entry")
            check(0 <= state.size <= 1 << 62, "an impossible entry")
            check(all(map(possible, state.runs)), "an impossible content")
            known = self.states.setdefault((path, kind == FOLDER), state)
            if known.order < state.order:
                self.states[path, kind == FOLDER] = state
            elif known.order == state.order and known != state:
                say(f"{shown(path)}: told in two ways that contradict each other")

    def _check_chain(self) -> None:
        """Name manifests that are missing or doubled: each names the one before it (11)."""
        covered, hashes = 0, dict[int, set[bytes]]()
        known = {pair for row in self._manifests for pair in (row[2:4], (row[0], row[4]))}
        for key, parts in self._parts.items():
            last = self._last_part.get(key, 1 << 62)
            if key in known and sum(0 <= part <= last for part in parts) == last + 1:
                covered = max(covered, key[0])
            else:
                say(f"checkpoint {key[0]} is not complete, or not of a manifest that is here")
        for number, _, previous, hash_, own in sorted(self._manifests):
            if number in hashes:
                say(f"there are two manifests {number}: both are used")
            if previous > covered and previous not in hashes:
                say(f"manifest {previous} is missing, and what only it tells")
            elif previous in hashes and not {hash_, b""} & hashes[previous]:
                say(f"manifest {previous} is not the one that manifest {number} continues")
            hashes.setdefault(number, set()).add(own)

    def names(self) -> dict[tuple[bytes, bool], bytes]:
        """Where each path goes. Of a path that was a file and a folder the older gets `~run`."""
        moved: dict[tuple[bytes, bool], bytes] = {}
        orders = {key: state.order for key, state in self.states.items()}
        told = sorted((path, order) for (path, _), order in orders.items())
        for path, is_folder in self.states:
            possible = not {b"", b".", b".."} & set(path.split(b"/"))
            if possible and not is_folder and (path, True) not in self.states:
                # Of a folder that was moved, packs may tell only what is in it.
                first, end = (bisect.bisect_left(told, (path + after,)) for after in (b"/", b"0"))
                if first < end:
                    orders[path, True] = max(order for _, order in told[first:end])
        for path, is_folder in orders:
            if is_folder and (path, False) in orders:
                older = min((True, False), key=lambda which: orders[path, which])
                above, slash, name = path.rpartition(b"/")
                name += b"~%d" % orders[path, older][0]
                while any((above + slash + name, kind) in self.states for kind in (True, False)):
                    name += b"~"
                moved[path, older] = name

        def target(path: bytes, is_folder: bool) -> bytes:
            parts = path.split(b"/")
            for at in range(len(parts) if moved else 0):
                key = b"/".join(path.split(b"/")[: at + 1]), at + 1 < len(parts) or is_folder
                parts[at] = moved.get(key, parts[at])
            return b"/".join(parts)

        return {key: target(*key) for key in self.states}


class Destination:
    """The folder to write to, which was empty; nothing is ever written outside it."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            sys.exit(f"rescue: {folder} is not empty: name a new folder")
        self._root = os.fsencode(folder.absolute())
        self.made = {b""}

    def where(self, path: bytes) -> bytes:
        """The absolute place of a path, the folders above it made; Bad where it leads out."""
        for part in path.split(b"/"):
            check(part not in (b"", b".", b"..") and b"\0" not in part, "it leads out of DEST")
            check(os.name != "nt" or not set(b'\\:*?"<>|') & set(part), "not possible here")
        at = path.find(b"/")
        while at >= 0:
            self.make_folder(path[:at])
            at = path.find(b"/", at + 1)
        return self._root + b"/" + path

    def make_folder(self, path: bytes) -> None:
        """Make a folder in one that is there. What is there must be a real folder (10.1)."""
        if path not in self.made:
            place = self._root + b"/" + path
            if not os.path.lexists(place):
                os.mkdir(place, 0o700)
            check(stat.S_ISDIR(os.lstat(place).st_mode), f"{shown(path)} is in the way")
            self.made.add(path)

    def write_file(self, path: bytes, state: State, pieces: Iterator[bytes | int]) -> None:
        """Write a file under another name first, so that one that is not whole has no name."""
        where = self.where(path)
        descriptor, part = tempfile.mkstemp(prefix=b".rescue-", dir=self._root)
        try:
            with os.fdopen(descriptor, "wb") as file:
                for piece in pieces:
                    if isinstance(piece, int):
                        file.seek(piece, os.SEEK_CUR)
                    else:
                        file.write(piece)
                file.truncate(state.size)
            check(not os.path.lexists(where), "something else is there")
            os.rename(part, where)
        except BaseException:
            os.unlink(part)
            raise
        self.dress(path, state)

    def write_link(self, path: bytes, state: State) -> None:
        """Make a symbolic link, wherever it points; nothing is written through it."""
        where = self.where(path)
        os.symlink(state.link, where)
        if os.utime in os.supports_follow_symlinks:
            os.utime(where, ns=(state.mtime, state.mtime), follow_symlinks=False)

    def dress(self, path: bytes, state: State) -> None:
        """Set mode and time of a file or folder that was made here."""
        where = self._root + b"/" + path if path else self._root
        os.chmod(where, state.mode)
        os.utime(where, ns=(state.mtime, state.mtime))


def pieces_of(archive: Archive, state: State) -> Iterator[bytes | int]:
    """The content of a file: chunks, and lengths of holes; checked before the first (10.3)."""
    content: list[tuple[Object, int, int] | int] = []
    missing = []
    chunks = sum(0 if isinstance(run, int) else run[2] for run in state.runs)
    check(chunks <= 1024 + state.size // 256, "its content has more chunks than its size allows")
    hasher = blake3(struct.pack("<Q", state.size), key=archive.keys.file)
    total = 0
    for run in state.runs:
        if isinstance(run, int):
            hasher.update(b"\0" + struct.pack("<Q", run))
            total += run
            content.append(run)
            continue
        id_, first, count = run
        if (pack := archive.packs.get(id_)) is None:
            missing.append(f"{archive.keys.archive[:6].hex()}-p-{id_.hex()}")
            continue
        table = table_of(pack)
        check(first + count <= len(table), f"part of it is lost in {pack.path.name}")
        for ordinal in range(first, first + count):
            hasher.update(b"\1" + struct.pack("<I", table[ordinal].length) + table[ordinal].id)
            total += table[ordinal].length
        content.append((pack, first, count))
    check(not missing, "it needs " + ", ".join(dict.fromkeys(missing)))
    check(total == state.size and hasher.digest() == state.hash, "its content is not what it was")

    def pieces() -> Iterator[bytes | int]:
        for item in content:
            if isinstance(item, int):
                yield item
            else:
                yield from (item[0].chunk(item[1] + number) for number in range(item[2]))

    return pieces()


def restore(archive: Archive, folder: Path) -> None:
    """Write every path: files in the order of the packs, then links, then folders' times."""
    out, names = Destination(folder), archive.names()
    files = written = size = 0

    def place(item: tuple[tuple[bytes, bool], State]) -> tuple[Any, ...]:
        runs = [run for run in item[1].runs if not isinstance(run, int)]
        return (item[1].kind, *(runs[0][:2] if runs else (b"", 0)))

    def depth(item: tuple[tuple[bytes, bool], State]) -> int:
        return -names[item[0]].count(b"/")

    todo = sorted((item for item in archive.states.items() if not item[0][1]), key=place)
    folders = sorted((item for item in archive.states.items() if item[0][1]), key=depth)
    for key, state in (*todo, *folders):
        path = names[key]
        try:
            if state.kind == FILE:
                files += 1
                out.write_file(path, state, pieces_of(archive, state))
                written, size = written + 1, size + state.size
            elif state.kind == SYMLINK:
                out.write_link(path, state)
            elif path:
                out.where(path)
                out.make_folder(path)
        except (Bad, ValueError, TypeError, OverflowError) as error:
            say(f"{shown(path)}: {error}")
        except OSError as error:
            if error.errno in (28, 122, 30):
                sys.exit(f"rescue: {folder}: {error.strerror}")
            say(f"{shown(path)}: {error.strerror}")
    for key, state in folders:
        try:
            if names[key] in out.made:
                out.dress(names[key], state)
        except (OSError, OverflowError) as error:
            say(f"{shown(names[key])}: {error}")
    print(f"restored {written:,} of {counted(files, 'file')}, {size:,} bytes, into {folder}")


def headers_of(path: Path) -> tuple[list[Header], str]:
    """The headers at both ends of a file that can be parsed, and why none can (4)."""
    try:
        with opened(path) as file:
            front = file.read(HEADER_MAX)
            file.seek(max(0, file.seek(0, os.SEEK_END) - HEADER_MAX))
            back = file.read(HEADER_MAX)
    except Bad as error:
        return [], str(error)
    length = struct.unpack("<I", back[-12:-8])[0] if back[-8:] == MAGIC[::-1] else 0
    found, why = [], ""
    for data in (front, back[-length:] if 1224 <= length <= len(back) else b""):
        try:
            found.append(Header(data))
        except Bad as error:
            why = why or str(error)
    return found, why


def unlock(headers: list[Header], secret: str) -> tuple[dict[bytes, Keys], set[bytes]]:
    """Keys by archive id: a slot that opens serves all objects of its archive (5.1).

    Those that most objects have come first: strangers may have added others, which are not tried
    beyond half a minute. Also the ids of the archives for which not all could be tried.
    """
    keys: dict[bytes, Keys] = {}
    left: set[bytes] = set()
    counts = Counter((header.archive, slot) for header in headers for slot in header.slots)
    work = 0
    for archive, slot in sorted(counts, key=lambda each: (-counts[each], each[1].work())):
        if archive in keys:
            continue
        try:
            check(work + slot.work() <= 48 << 30, "too much work")
            work += slot.work()
            if found := open_slot(slot, archive, secret):
                keys[archive] = found
        except (Bad, nacl.exceptions.RuntimeError):
            left.add(archive)
    return keys, left


def open_all(source: Path, secret: str, found: dict[Path, tuple[list[Header], str]]) -> Archive:
    """The objects of the archive that the secret opens; of several the one with most objects."""
    keys, left = unlock([header for headers, _ in found.values() for header in headers], secret)
    untried = "its key slots need too much time or memory to be tried: try it alone"
    if not keys:
        for path, (headers, _) in found.items():
            if any(header.archive in left for header in headers):
                say(f"{path.name}: {untried}")
        sys.exit(f"rescue: this password or recovery code opens nothing in {source} that was tried")
    archives = {id_: Archive(own) for id_, own in keys.items()}
    for path, (headers, why) in found.items():
        for header in headers:
            try:
                if header.archive in keys:
                    archives[header.archive].add(Object(path, header, keys[header.archive]))
                    break
                why = "of another archive, or under another password"
                why = untried if header.archive in left else why
            except Bad as error:
                why = str(error)
        else:
            say(f"{path.name}: {why}; skipped")
    best, *others = sorted(archives.values(), key=lambda one: -len(one.packs) - len(one.log))
    for other in others:
        objects = counted(len(other.packs) + len(other.log), "object")
        say(f"left out: {objects} of another archive")
    return best


def main() -> int:
    """Ask, open, read, restore."""
    if len(sys.argv) != 3 or sys.argv[1].startswith("-"):
        print(__doc__)
        return 2
    source, destination = map(Path, sys.argv[1:])
    if not source.exists():
        sys.exit(f"rescue: no folder {source}")
    files = sorted(source.iterdir()) if source.is_dir() else [source]
    found = {path: headers_of(path) for path in files if path.is_file()}
    for path in [path for path, (headers, _) in found.items() if not headers]:
        _, why = found.pop(path)
        if "-p-" in path.name or "-m-" in path.name or "-c-" in path.name:
            say(f"{path.name}: {why}; skipped")
    if not found:
        sys.exit(f"rescue: no object of pyarchiver in {source}")
    asked = "password or recovery code: "
    line = getpass.getpass(asked) if sys.stdin.isatty() else sys.stdin.readline().rstrip("\r\n")
    archive = open_all(source, line, found)
    logs = counted(len(archive.log), "manifest or checkpoint", "manifests and checkpoints")
    print(f"opened {counted(len(archive.packs), 'pack')}, {logs}")
    archive.read()
    restore(archive, destination)
    if TROUBLES:
        things = counted(TROUBLES, "thing is", "things are")
        print(f"rescue: {things} missing or damaged, named above", file=sys.stderr)
    return 3 if TROUBLES else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("rescue: interrupted; run it again with a new DEST")
