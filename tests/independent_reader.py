"""A second reader of the format, written from FORMAT.md alone: it shares no line with the program.

    python independent_reader.py FOLDER DESTINATION     the password comes on standard input

What a number in brackets names is a section of FORMAT.md. It favours what is short and plain over
what is fast: an object is read whole into memory.
"""

import hashlib
import hmac
import os
import re
import struct
import sys
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgpack
import nacl.bindings as sodium
import zstandard
from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from nacl.exceptions import CryptoError

MIB = 1 << 20
TOP = 2**62 - 1
MAGIC, END_MAGIC = bytes.fromhex("8950594152430d0a"), bytes.fromhex("0a0d435241595089")
KIT = re.compile(r"[0-9a-f]{12}-kit-[0-9a-f]{32}\.zip")
TAGS = {"aegis256": 32, "xchacha20poly1305": 16}
ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
PACK, MANIFEST, CHECKPOINT = 1, 2, 3
FILE, FOLDER, LINK, GONE = 1, 2, 3, 4


class Refused(Exception):
    """This value, record or object is not what the format allows, or was altered."""


def need(condition: object, why: str) -> None:
    if not condition:
        raise Refused(why)


# Msgpack (1)


def values(data: bytes) -> Iterator[Any]:
    """The msgpack values that stand side by side in `data`, which they must fill."""
    unpacker = msgpack.Unpacker(
        raw=False,
        unicode_errors="surrogateescape",
        max_buffer_size=max(1, len(data)),
        object_pairs_hook=named,
        strict_map_key=False,
    )
    unpacker.feed(data)
    while unpacker.tell() < len(data):
        try:
            value = unpacker.unpack()
        except (ValueError, msgpack.OutOfData, msgpack.UnpackException, RecursionError) as error:
            raise Refused(f"msgpack: {error}") from None
        plain(value)
        yield value


def one(data: bytes) -> Any:
    found = list(values(data))
    need(len(found) == 1, "not one msgpack value")
    return found[0]


def named(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    need(all(isinstance(key, str | bytes) for key, _ in pairs), "a name of another type")
    need(len({key for key, _ in pairs}) == len(pairs), "a field stands twice")
    return dict(pairs)


def plain(value: Any) -> None:
    need(not isinstance(value, msgpack.ExtType | msgpack.Timestamp), "an extension type")
    for inner in (
        [*value.keys(), *value.values()]
        if isinstance(value, dict)
        else value
        if isinstance(value, list)
        else []
    ):
        plain(inner)


Check = Callable[[Any], bool]


def number(low: int, high: int = TOP) -> Check:
    return lambda value: type(value) is int and low <= value <= high


def binary(low: int, high: int | None = None) -> Check:
    return lambda value: (
        type(value) is bytes and low <= len(value) <= (low if high is None else high)
    )


def text(value: Any) -> bool:
    return type(value) is str


def array(value: Any) -> bool:
    return type(value) is list


def fields(
    value: Any, wanted: dict[str, Check], optional: dict[str, Check] | None = None
) -> dict[str, Any]:
    """The fields of a map: all that are wanted, none that is critical and unknown."""
    need(
        type(value) is dict and all(type(name) is str for name in value),
        "not a map of named fields",
    )
    known = wanted | (optional or {})
    need(
        not any(name[:1].isupper() for name in value if name not in known),
        "a critical field that is not known",
    )
    need(wanted.keys() <= value.keys(), "a field is missing")
    for name in known.keys() & value.keys():
        need(known[name](value[name]), f"field {name} is out of range")
    return {name: value[name] for name in known if name in value}


def unzstd(data: bytes, size: int | None, limit: int, window: int) -> bytes:
    """The content of exactly one frame that declares its size."""
    try:
        frame = zstandard.get_frame_parameters(data)
        need(
            0 < frame.content_size <= limit and frame.content_size == (size or frame.content_size),
            "size of a zstd frame",
        )
        need(
            frame.window_size <= window and frame.dict_id == 0,
            "window or dictionary of a zstd frame",
        )
        return zstandard.ZstdDecompressor().decompress(data, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise Refused(f"zstd: {error}") from None


# Header and keys (4, 5)


@dataclass(frozen=True)
class Header:
    raw: bytes
    suite: str
    archive: bytes
    object: bytes
    kind: int
    slots: list[Any]


def parse_header(data: bytes) -> Header:
    need(data[:8] == MAGIC and len(data) >= 12, "no magic")
    size = int.from_bytes(data[8:12], "little")
    need(size <= 64312 and len(data) >= size + 1224, "length of a header")
    content = one(data[12 : 12 + size])
    need(type(content) is dict and content.get("version") == 1, "written by a newer program")
    need(
        data[1212 + size : 1224 + size] == struct.pack("<I", size + 1224) + END_MAGIC,
        "end of a header",
    )
    wanted = {
        "version": number(1, 1),
        "suite": lambda name: name in TAGS if text(name) else False,
        "archive": binary(16),
    }
    content = fields(
        content, {**wanted, "object": binary(16), "kind": number(0, 255), "slots": array}
    )
    need(len(content["slots"]) <= 16, "too many slots")
    return Header(
        data[: size + 1224],
        content["suite"],
        content["archive"],
        content["object"],
        content["kind"],
        content["slots"],
    )


def derive(context: str, material: bytes) -> bytes:
    return blake3(material, derive_key_context=f"pyarchiver v1 2026 {context}").digest()


def recovery_secret(code: str) -> bytes | None:
    """The 16 bytes of a recovery code, None where it is none (5.3)."""
    letters = "".join(code.split()).replace("-", "").upper().translate(str.maketrans("OIL", "011"))
    if len(letters) != 32 or set(letters) - set(ALPHABET):
        return None
    value = 0
    for letter in letters:
        value = value << 5 | ALPHABET.index(letter)
    secret, check = value.to_bytes(20, "big")[:16], value.to_bytes(20, "big")[16:]
    return secret if derive("recovery checksum", secret)[:4] == check else None


@lru_cache(maxsize=64)
def argon2id(password: str, salt: bytes, ops: int, mem: int) -> bytes:
    secret = unicodedata.normalize("NFKC", password).encode()
    return sodium.crypto_pwhash_alg(32, secret, salt, ops, mem, sodium.crypto_pwhash_ALG_ARGON2ID13)


def slot_key(slot: dict[str, Any], secret: str) -> bytes | None:
    if slot["type"] == 1:
        return argon2id(secret, slot["salt"], slot["ops"], slot["mem"])
    code = recovery_secret(secret)
    return derive("recovery slot", slot["salt"] + code) if code else None


def open_slots(header: Header, secret: str) -> bytes | None:
    """seed || archive key, or None where no slot opens."""
    common = {"type": number(1, 2), "salt": binary(16), "nonce": binary(24), "sealed": binary(80)}
    argon = {"ops": number(1, 16), "mem": number(8192, 2**31)}
    for each in header.slots:
        try:
            slot = fields(
                each, common | (argon if type(each) is dict and each.get("type") == 1 else {})
            )
            key = slot_key(slot, secret)
            aad = b"pyarchiver v1 slot\0" + header.archive + bytes([slot["type"]])
            if key:
                return sodium.crypto_aead_xchacha20poly1305_ietf_decrypt(
                    slot["sealed"], aad, slot["nonce"], key
                )
        except (Refused, CryptoError):
            continue
    return None


class Keys:
    """What seed and archive key give (5.4, 5.5)."""

    def __init__(self, content: bytes) -> None:
        seed, archive_key = content[:32], content[32:]
        self.mac, self.chunk, self.file = (
            derive(name, archive_key) for name in ("header mac", "chunk id", "file hash")
        )
        expanded = hashlib.shake_256(seed).digest(96)
        self.mlkem = MLKEM768PrivateKey.from_seed_bytes(expanded[:64])
        self.x25519 = X25519PrivateKey.from_private_bytes(expanded[64:])
        self.x25519_public = self.x25519.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)

    def object_key(self, header: Header) -> bytes:
        """Open HPKE in base mode (5.6)."""
        fields_end = len(header.raw) - 1212
        ct_m, ct_x, ct = (
            header.raw[fields_end + a : fields_end + b]
            for a, b in ((0, 1088), (1088, 1120), (1120, 1168))
        )
        suite = b"HPKE\x64\x7a\x00\x01\x00\x03"

        def extract(salt: bytes, label: bytes, material: bytes) -> bytes:
            return hmac.digest(salt or bytes(32), b"HPKE-v1" + suite + label + material, "sha256")

        def expand(secret: bytes, label: bytes, info: bytes, size: int) -> bytes:
            return HKDFExpand(
                hashes.SHA256(), size, struct.pack(">H", size) + b"HPKE-v1" + suite + label + info
            ).derive(secret)

        try:
            ss_x = self.x25519.exchange(X25519PublicKey.from_public_bytes(ct_x))
            ss_m = self.mlkem.decapsulate(ct_m)
            shared = hashlib.sha3_256(
                ss_m + ss_x + ct_x + self.x25519_public + b"\\.//^\\"
            ).digest()
            info = b"pyarchiver v1 object key\0" + header.raw[:fields_end]
            context = b"\0" + extract(b"", b"psk_id_hash", b"") + extract(b"", b"info_hash", info)
            secret = extract(shared, b"secret", b"")
            key, nonce = (
                expand(secret, b"key", context, 32),
                expand(secret, b"base_nonce", context, 12),
            )
            opened = ChaCha20Poly1305(key).decrypt(nonce, ct, None)
        except (InvalidTag, ValueError):
            raise Refused("the object key does not open") from None
        need(len(opened) == 32, "length of the object key")
        return opened


class Ring:
    """The keys of every archive that one secret opens."""

    def __init__(self, secret: str) -> None:
        self.secret = secret
        self.keys: dict[bytes, Keys] = {}

    def header(self, data: bytes) -> Header:
        """The good one of an object's two headers."""
        why = "no magic at either end"
        for copy in (data[:65536], trailing(data)):
            try:
                header = parse_header(copy)
                content = None if header.archive in self.keys else open_slots(header, self.secret)
                keys = Keys(content) if content else self.keys.get(header.archive)
                if keys is None:
                    raise Refused("wrong password or code")
                mac = blake3(header.raw[:-44], key=keys.mac).digest()
                need(hmac.compare_digest(mac, header.raw[-44:-12]), "MAC of a header")
                self.keys[header.archive] = keys
                return header
            except Refused as error:
                why = str(error)
        raise Refused(why)


def trailing(data: bytes) -> bytes:
    size = int.from_bytes(data[-12:-8], "little")
    good = len(data) >= 12 and data[-8:] == END_MAGIC and 1224 <= size <= min(65536, len(data))
    return data[-size:] if good else b""


# Segments and records (6, 8, 13)


class Payload:
    """The plain payload, or what can still be opened of it: None stands for a lost segment."""

    def __init__(self, data: bytes, header: Header, key: bytes) -> None:
        self.data, self.header, self.key = data, header, key
        self.tag, self.begin = TAGS[header.suite], len(header.raw)
        self.whole = False
        self.segments: list[bytes | None] = []
        for end in self.ends():
            if self.open_until(end):
                return
        step = MIB + self.tag
        count = max(0, (len(data) - self.begin) // step)
        self.segments = [self.segment(i, self.begin + (i + 1) * step, 0) for i in range(count)]
        if count and self.segments[-1] is None:
            self.segments[-1] = self.segment(count - 1, self.begin + count * step, 1)
            self.whole = self.segments[-1] is not None

    def ends(self) -> Iterator[int]:
        """Where the segments may end: by the size, or where a header or its first bytes stand."""
        yield len(self.data) - self.begin
        raw = self.header.raw
        position = self.data.rfind(raw[:16])
        while position > 0:
            if raw.startswith(self.data[position : position + len(raw)]):
                yield position
            position = self.data.rfind(raw[:16], 0, position + 15)
        for short in range(15, -1, -1):
            if self.data.endswith(raw[:short]):
                yield len(self.data) - short

    def open_until(self, end: int) -> bool:
        body = end - self.begin
        count = -(-body // (MIB + self.tag))
        if count < 1 or -(-(body - count * self.tag) // MIB) != count:
            return False
        last = self.segment(count - 1, end, 1)
        if last is None:
            return False
        step = MIB + self.tag
        self.segments = [
            self.segment(i, self.begin + (i + 1) * step, 0) for i in range(count - 1)
        ] + [last]
        self.whole = True
        return True

    def segment(self, i: int, end: int, last: int) -> bytes | None:
        sealed = self.data[self.begin + i * (MIB + self.tag) : end]
        start, aad = struct.pack("<QB", i, last), blake3(self.header.raw).digest()
        try:
            if self.header.suite == "aegis256":
                return sodium.crypto_aead_aegis256_decrypt(
                    sealed, aad, start.ljust(32, b"\0"), self.key
                )
            return sodium.crypto_aead_xchacha20poly1305_ietf_decrypt(
                sealed, aad, start.ljust(24, b"\0"), self.key
            )
        except CryptoError:
            return None

    def __len__(self) -> int:
        return (
            (len(self.segments) - 1) * MIB + len(self.segments[-1] or b"")
            if self.whole
            else len(self.segments) * MIB
        )

    def prefix(self, offset: int, size: int) -> bytes:
        """The bytes from `offset` to the first lost segment, at most `size`."""
        found = b""
        while len(found) < size and (offset + len(found)) // MIB < len(self.segments):
            at = offset + len(found)
            segment = self.segments[at // MIB]
            piece = segment[at % MIB : at % MIB + size - len(found)] if segment is not None else b""
            if not piece:
                break
            found += piece
        return found

    def read(self, offset: int, size: int) -> bytes:
        found = self.prefix(offset, size)
        need(len(found) == size, "bytes of a lost segment")
        return found


@dataclass(frozen=True)
class Record:
    type: int
    offset: int
    size: int


@dataclass(frozen=True)
class Chunk:
    block: Record
    position: int
    """Which chunk of its block."""
    length: int
    id: bytes | None


def check_row(row: Any) -> tuple[Record, int]:
    need(type(row) is list and len(row) >= 4, "a row of the index")
    kind, offset, size, chunks = row[:4]
    need(
        number(0, 255)(kind)
        and number(0)(offset)
        and number(0, 8454160 if kind == 2 else 4194304)(size),
        "a row of the index",
    )
    need(
        number(1, 16384)(chunks) if kind == 2 else chunks == 0 and type(chunks) is int,
        "chunks of a row",
    )
    return Record(kind, offset, size), chunks


def parse_index(bodies: list[bytes]) -> tuple[list[Record], list[Chunk]]:
    records: list[Record] = []
    chunks: list[Chunk] = []
    for body in bodies:
        found = fields(
            one(body), {"records": array, "lengths": binary(0, 4194304), "ids": binary(0, 4194304)}
        )
        rows = [check_row(row) for row in found["records"]]
        total = sum(count for _, count in rows)
        need(
            len(found["lengths"]) == 4 * total and len(found["ids"]) == 32 * total,
            "lengths and ids of an index",
        )
        lengths = iter(struct.unpack(f"<{total}I", found["lengths"]))
        ids = (found["ids"][i : i + 32] for i in range(0, 32 * total, 32))
        for record, count in rows:
            records.append(record)
            chunks += [
                Chunk(record, position, next(lengths), next(ids)) for position in range(count)
            ]
    return records, chunks


# Objects (8, 9)


class Object:
    """One opened object: its records, and of a pack its chunks by ordinal."""

    def __init__(self, name: str, data: bytes, ring: Ring) -> None:
        self.name, self.size, self.hash = name, len(data), blake3(data).digest()
        self.header = ring.header(data)
        self.id, self.kind = self.header.object, self.header.kind
        self.keys = ring.keys[self.header.archive]
        need(self.kind in (PACK, MANIFEST, CHECKPOINT), "a kind of object that is not known")
        self.damage: list[str] = []
        self.payload = Payload(data, self.header, self.keys.object_key(self.header))
        self.records: list[Record] = []
        self.chunks: list[Chunk] = []
        self.decoded: tuple[Record | None, list[bytes | None]] = (None, [])
        try:
            need(self.payload.whole, "it was cut, or its last segment is damaged")
            self.records, self.chunks = parse_index(self.index_bodies())
        except Refused as error:
            self.damage.append(str(error))
            self.front_to_back()
        found = list(self.bodies(1))
        self.about = parse_about(found[0]) if found and self.records[0].type == 1 else {}

    def index_bodies(self) -> list[bytes]:
        size = len(self.payload)
        need(size >= 21, "no tail")
        tail = self.payload.read(size - 21, 21)
        offset, stated = struct.unpack("<QQ", tail[5:])
        need(tail[:5] == b"\x0b\x10\0\0\0" and stated == size and offset < size - 21, "the tail")
        found = []
        while offset < size - 21:
            kind, length = struct.unpack("<BI", self.payload.read(offset, 5))
            need(
                kind == 10 and length <= 4194304 and offset + 5 + length <= size - 21,
                "an index record",
            )
            found.append(self.payload.read(offset + 5, length))
            offset += 5 + length
        return found

    def front_to_back(self) -> None:
        """The records, and the chunks that blocks list, until the first that is lost (13)."""
        offset = 0
        while len(frame := self.payload.prefix(offset, 5)) == 5:
            kind, length = struct.unpack("<BI", frame)
            if (
                kind == 11
                or length > (8454160 if kind == 2 else 4194304)
                or 11 < kind < 128
                or kind == 0
            ):
                break
            record = Record(kind, offset, length)
            body = self.payload.prefix(offset + 5, length)
            self.records.append(record)
            if kind == 2 and len(body) >= 5:
                count = int.from_bytes(body[1:5], "little")
                if 1 <= count <= 16384 and len(body) >= 5 + 4 * count:
                    lengths = struct.unpack_from(f"<{count}I", body, 5)
                    self.chunks += [Chunk(record, i, size, None) for i, size in enumerate(lengths)]
            if len(body) < length:
                break
            offset += 5 + length

    def body(self, record: Record) -> bytes:
        frame = self.payload.read(record.offset, 5)
        need(
            frame == struct.pack("<BI", record.type, record.size),
            "a record is not where the index says",
        )
        return self.payload.read(record.offset + 5, record.size)

    def bodies(self, *types: int) -> Iterator[bytes]:
        """Bodies of the records of these types that can be read."""
        for record in self.records:
            if record.type in types:
                try:
                    yield self.body(record)
                except Refused as error:
                    self.damage.append(f"record at {record.offset}: {error}")

    def values(self, kind: int) -> Iterator[Any]:
        for body in self.bodies(kind):
            try:
                yield one(body)
            except Refused as error:
                self.damage.append(str(error))

    def entries(self) -> Iterator["Entry"]:
        """Entries and parts in their order, without those that are damaged (9.3, 9.4)."""
        parts = Parts()
        for record in self.records:
            if record.type != 4:
                parts = Parts()
            try:
                if record.type == 4:
                    content = parts.add(one(self.body(record)))
                elif record.type == 3:
                    content = unzstd(self.body(record), None, 4194304, 4 * MIB)
                else:
                    continue
                for value in values(content):
                    try:
                        yield parse_entry(value)
                    except Refused as error:
                        self.damage.append(f"entry {value!r:.80}: {error}")
            except Refused as error:
                self.damage.append(f"record at {record.offset}: {error}")

    def chunk(self, ordinal: int) -> tuple[bytes, bytes]:
        """(bytes, id) of a chunk, verified where its id is known."""
        need(ordinal < len(self.chunks), "no such chunk")
        place = self.chunks[ordinal]
        if self.decoded[0] != place.block:
            self.decoded = (place.block, self.block(place.block))
        found = self.decoded[1]
        data = found[place.position] if place.position < len(found) else None
        if data is None or len(data) != place.length:
            raise Refused("a chunk of a damaged block")
        name = blake3(data, key=self.keys.chunk).digest()
        need(place.id in (None, name), "a chunk does not match its id")
        return data, name

    def block(self, record: Record) -> list[bytes | None]:
        """The chunks of a block, None for those that are lost (9.2, 13)."""
        start = self.payload.prefix(record.offset + 5, min(5 + 4 * 16384, record.size))
        need(len(start) >= 5, "a block is lost")
        method, count = struct.unpack_from("<BI", start)
        head = 5 + 4 * count
        need(method < 2 and 1 <= count <= 16384 and len(start) >= head, "a block")
        lengths = struct.unpack_from(f"<{count}I", start, 5)
        total = sum(lengths)
        need(total <= 8388608, "a block is too large")
        if method == 0:
            need(record.size == head + total, "length of a block")
            return [
                self.maybe(record.offset + 5 + head + sum(lengths[:i]), size)
                for i, size in enumerate(lengths)
            ]
        data = self.payload.prefix(record.offset + 5 + head, record.size - head)
        if len(data) == record.size - head:
            content = unzstd(data, total, 8388608, 8 * MIB)
        else:
            reader = zstandard.ZstdDecompressor(max_window_size=8 * MIB).stream_reader(data)
            content = reader.read(total)
        ends = [sum(lengths[: i + 1]) for i in range(count)]
        return [
            content[end - size : end] if end <= len(content) else None
            for end, size in zip(ends, lengths, strict=True)
        ]

    def maybe(self, offset: int, size: int) -> bytes | None:
        found = self.payload.prefix(offset, size)
        return found if len(found) == size else None


def parse_about(body: bytes) -> dict[str, Any]:
    numbers = dict.fromkeys(("previous", "number", "part", "written"), number(0))
    return fields(one(body), {"run": number(1), "hash": binary(32), "program": text, **numbers})


class Parts:
    """Pieces of an entry that is larger than a record (9.4)."""

    def __init__(self) -> None:
        self.total, self.pieces = 0, list[bytes]()

    def add(self, value: Any) -> bytes:
        """The entry where this was the last piece, else nothing."""
        need(type(value) is list and len(value) >= 3, "a part")
        position, total, piece = value[:3]
        need(
            number(0, 63)(position) and number(position + 1, 64)(total) and type(piece) is bytes,
            "a part",
        )
        if position == 0:
            self.total, self.pieces = total, []
        need(len(self.pieces) == position and self.total == total, "a part is out of order")
        self.pieces.append(piece)
        return b"".join(self.pieces) if len(self.pieces) == total else b""


# Entries and the state of the archive (10, 11)


@dataclass(frozen=True)
class Entry:
    path: bytes
    run: int
    sequence: int
    kind: int
    fields: dict[str, Any] = field(compare=True, hash=False)

    @property
    def age(self) -> tuple[int, int]:
        return self.run, self.sequence


def attributes(value: Any) -> bool:
    """Pairs of name and value, the names distinct."""
    if type(value) is not list:
        return False
    pairs = all(type(x) is list and len(x) == 2 and all(type(y) is bytes for y in x) for x in value)
    return pairs and len({x[0] for x in value}) == len(value)


def content_run(value: Any) -> bool:
    if type(value) is list and len(value) == 3:
        return (
            binary(16)(value[0])
            and number(0, 2**32 - 1)(value[1])
            and number(1, 2**32 - 1)(value[2])
        )
    return number(1, 2**62)(value)


COMMON: dict[str, Check] = {"mode": number(0, 4095), "mtime": number(-(2**63), 2**63 - 1)}
COMMON |= {"uid": number(0, 2**32 - 1), "gid": number(0, 2**32 - 1)}
FIELDS: dict[int, dict[str, Check]] = {
    FILE: {
        **COMMON,
        "size": number(0, 2**62),
        "hash": binary(32),
        "runs": lambda value: type(value) is list and all(content_run(each) for each in value),
    },
    FOLDER: COMMON,
    LINK: {**COMMON, "link": binary(0, 4194304)},
    GONE: {},
}
OPTIONAL: dict[str, Check] = {
    "user": text,
    "group": text,
    "hardlink": number(1, 2**64 - 1),
    "xattr": attributes,
}


def parse_entry(value: Any) -> Entry:
    need(type(value) is list and len(value) >= 4, "an entry")
    path, run, sequence, content = value[:4]
    need(
        binary(0, 32768)(path) and number(1, 2**56 - 1)(run) and number(1, 2**56 - 1)(sequence),
        "an entry",
    )
    need(
        not path
        or all(name not in (b"", b".", b"..") and 0 not in name for name in path.split(b"/")),
        "a path",
    )
    kind: Any = content.get("kind") if type(content) is dict else None
    need(type(kind) is int and kind in FIELDS, "an entry of unknown kind")
    found = fields(
        content, {"kind": number(1, 4), **FIELDS[kind]}, OPTIONAL if kind != GONE else None
    )
    return Entry(path, run, sequence, kind, found)


def newest(entries: list[Entry], gone: bool = True) -> dict[bytes, Entry]:
    """The newest state of each path, of those that are not gone with `gone` false."""
    found: dict[bytes, Entry] = {}
    for entry in entries:
        if (gone or entry.kind != GONE) and (
            entry.path not in found or entry.age > found[entry.path].age
        ):
            found[entry.path] = entry
    return {path: entry for path, entry in found.items() if entry.kind != GONE}


@dataclass
class Log:
    """What manifests and checkpoints say: a replayed log."""

    number: int = 0
    head: bytes = bytes(32)
    entries: list[Entry] = field(default_factory=list)
    snapshots: dict[int, dict[str, Any]] = field(default_factory=dict)
    packs: dict[bytes, tuple[dict[str, Any], list[bytes]]] = field(default_factory=dict)

    def add(self, found: Object) -> None:
        self.entries += found.entries()
        for value in found.values(8):
            times = dict.fromkeys(("began", "ended", "files", "size"), number(0))
            run = fields(value, {"run": number(1), **times})
            self.snapshots[run["run"]] = run
        for i, record in enumerate(found.records):
            if record.type == 5:
                numbers = {"run": number(1), "size": number(1), "indexes": number(0, 1048576)}
                pack = fields(
                    one(found.body(record)),
                    {
                        "object": binary(16),
                        "blake3": binary(32),
                        "header": binary(1224, 65536),
                        **numbers,
                    },
                )
                following = found.records[i + 1 : i + 1 + pack["indexes"]]
                need(
                    [each.type for each in following] == [6] * pack["indexes"], "pack index records"
                )
                self.packs[pack["object"]] = pack, [found.body(each) for each in following]


class Archive:
    """All objects of one archive in a folder, opened with its password or recovery code."""

    def __init__(self, folder: Path, secret: str) -> None:
        ring = Ring(secret)
        self.notices: list[str] = []
        self.objects: list[Object] = []
        for path in sorted(folder.iterdir()):
            if KIT.fullmatch(path.name):
                continue
            try:
                found = Object(path.name, path.read_bytes(), ring)
                self.objects.append(found)
                self.notices += [f"{path.name}: {what}" for what in found.damage]
            except Refused as error:
                self.notices.append(f"{path.name}: {error}")
        need(
            len({each.header.archive for each in self.objects}) == 1,
            "not the objects of one archive",
        )
        self.packs = {each.id: each for each in self.objects if each.kind == PACK}
        self.log = self.replay()
        for name, (_, bodies) in self.log.packs.items():
            if name in self.packs and self.packs[name].damage:
                self.packs[name].records, self.packs[name].chunks = parse_index(bodies)

    def of(self, kind: int, place: int) -> list[Object]:
        return [
            each for each in self.objects if each.kind == kind and each.about.get("number") == place
        ]

    def checkpoint(self, place: int) -> list[Object]:
        """The parts of a checkpoint in order, nothing where it does not count."""
        parts = sorted(self.of(CHECKPOINT, place), key=lambda each: int(each.about["part"]))
        last = [bool({7, 8} & {record.type for record in each.records}) for each in parts]
        whole = last == [False] * (len(parts) - 1) + [True] and not any(
            each.damage for each in parts
        )
        return (
            parts
            if whole and [each.about["part"] for each in parts] == list(range(len(parts)))
            else []
        )

    def replay(self) -> Log:
        """The manifests from the first on; from a checkpoint where those before it are missing."""
        log = self.follow(Log())
        manifests = [each for each in self.objects if each.kind == MANIFEST and each.about]
        covered = {
            each.about["number"] for each in self.objects if each.kind == CHECKPOINT and each.about
        }
        newest = max([*covered, *(each.about["number"] for each in manifests)], default=0)
        for place in sorted(covered, reverse=True):
            parts = self.checkpoint(place)
            if log.number == newest or place <= log.number or not parts:
                continue
            head = parts[0].about["hash"]
            known = {each.hash for each in manifests if each.about["number"] == place}
            known |= {each.about["hash"] for each in manifests if each.about["previous"] == place}
            if head not in known:
                self.notices.append(f"checkpoint {place}: no manifest that is there leads to it")
            if head in known or not known:
                log = Log(place, head)
                for each in parts:
                    log.add(each)
                return self.follow(log)
        return log

    def follow(self, log: Log) -> Log:
        """Add the manifests that follow."""
        while found := self.of(MANIFEST, log.number + 1):
            right = [
                each
                for each in found
                if (each.about["previous"], each.about["hash"]) == (log.number, log.head)
            ]
            if len(found) > 1 or not right:
                self.notices.append(
                    f"manifest {log.number + 1}: a fork, or not the one that follows"
                )
            if not right or right[0].damage:
                break
            log.add(right[0])
            log.number, log.head = log.number + 1, right[0].hash
        return log

    def entries(self, packs_only: bool = False) -> list[Entry]:
        """Of the log, or of the packs where there is none."""
        if self.log.entries and not packs_only:
            return self.log.entries
        return [entry for pack in self.packs.values() for entry in pack.entries()]

    def tree(
        self, snapshot: int | None = None, deleted: bool = False, packs_only: bool = False
    ) -> dict[bytes, Entry]:
        """The newest of each path, as of a snapshot or of all; with `deleted` also what is gone."""
        need(snapshot is None or snapshot in self.log.snapshots, "no such snapshot")
        entries = [
            each for each in self.entries(packs_only) if snapshot is None or each.run <= snapshot
        ]
        return newest(entries, gone=not deleted)

    def file(self, entry: Entry) -> Iterator[bytes | int]:
        """Chunks and holes of a file; refused, at the latest at its end, where not right (10.4)."""
        keys = self.objects[0].keys
        parts = blake3(struct.pack("<Q", entry.fields["size"]), key=keys.file)
        chunks = sum(run[2] for run in entry.fields["runs"] if type(run) is not int)
        need(chunks <= 1024 + entry.fields["size"] // 256, "so many chunks")
        size = 0
        for run in entry.fields["runs"]:
            if type(run) is int:
                parts.update(b"\0" + struct.pack("<Q", run))
                size += run
                yield run
                continue
            need(run[0] in self.packs, f"it lacks pack {run[0].hex()}")
            for ordinal in range(run[1], run[1] + run[2]):
                data, name = self.packs[run[0]].chunk(ordinal)
                parts.update(b"\1" + struct.pack("<I", len(data)) + name)
                size += len(data)
                yield data
        need(
            (size, parts.digest()) == (entry.fields["size"], entry.fields["hash"]),
            "size or hash of the file",
        )


# Writing


def restore(archive: Archive, tree: dict[bytes, Entry], destination: Path) -> dict[bytes, str]:
    """Write a tree into a new folder. The paths that could not be restored, and why."""
    destination.mkdir(parents=True)
    root = os.fsencode(destination)
    failed: dict[bytes, str] = {}
    names: dict[tuple[Any, bytes], bytes] = {}
    placed = place_all(tree)
    order = sorted(placed.items(), key=lambda item: (item[1].kind == LINK, item[0]))
    for path, entry in order:
        where = root + b"/" + path if path else root
        try:
            os.makedirs(where if entry.kind == FOLDER else os.path.dirname(where), exist_ok=True)
            group = (
                entry.fields.get("hardlink"),
                entry.fields.get("hash", entry.fields.get("link", b"")),
            )
            if entry.kind != FOLDER and group[0] and group in names:
                os.link(names[group], where, follow_symlinks=False)
                continue
            if entry.kind == FILE:
                write_file(archive, entry, where)
            elif entry.kind == LINK:
                os.symlink(entry.fields["link"], where)
            names[group] = where
        except (Refused, OSError) as error:
            failed[path] = str(error)
    for path, entry in sorted(placed.items(), reverse=True):
        where = root + b"/" + path if path else root
        if path not in failed and (entry.kind != LINK or os.path.islink(where)):
            finish(entry, where)
    return failed


def place_all(tree: dict[bytes, Entry]) -> dict[bytes, Entry]:
    """Paths to write at: of a file and a folder of one name the older gets another (12.2)."""
    placed: dict[bytes, Entry] = {}
    below: dict[bytes, Entry] = {}
    for path, entry in tree.items():
        parts = path.split(b"/")
        for depth in range(1, len(parts)):
            parent = b"/".join(parts[:depth])
            if parent not in below or entry.age > below[parent].age:
                below[parent] = entry
    renamed: dict[bytes, bytes] = {}
    for path, entry in tree.items():
        if entry.kind != FOLDER and path in below and entry.age > below[path].age:
            renamed[path] = path + b"~%d" % below[path].run
    for path, entry in tree.items():
        if entry.kind != FOLDER and path in below and entry.age < below[path].age:
            placed[path + b"~%d" % entry.run] = entry
            continue
        for old, new in renamed.items():
            if path.startswith(old + b"/"):
                path = new + path[len(old) :]
        placed[path] = entry
    return placed


def write_file(archive: Archive, entry: Entry, where: bytes) -> None:
    """Under another name until it is known to be whole and right."""
    part = where + b".part"
    try:
        with open(
            os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "wb"
        ) as file:
            for piece in archive.file(entry):
                if isinstance(piece, int):
                    file.seek(piece, os.SEEK_CUR)
                else:
                    file.write(piece)
            file.truncate(entry.fields["size"])
        os.rename(part, where)
    except (Refused, OSError):
        if os.path.lexists(part):
            os.unlink(part)
        raise


def finish(entry: Entry, where: bytes) -> None:
    """Owner, attributes, mode and times."""
    if os.geteuid() == 0:
        os.chown(where, entry.fields["uid"], entry.fields["gid"], follow_symlinks=False)
    for name, value in entry.fields.get("xattr", []):
        os.setxattr(where, name, value, follow_symlinks=False)
    if entry.kind != LINK:
        os.chmod(where, entry.fields["mode"])
    os.utime(where, ns=(entry.fields["mtime"], entry.fields["mtime"]), follow_symlinks=False)


def main() -> None:
    archive = Archive(Path(sys.argv[1]), sys.stdin.readline().rstrip("\n"))
    failed = restore(archive, archive.tree(), Path(sys.argv[2]))
    for line in archive.notices + [f"{os.fsdecode(path)}: {why}" for path, why in failed.items()]:
        print(line, file=sys.stderr)
    sys.exit(3 if failed or archive.notices else 0)


if __name__ == "__main__":
    main()
