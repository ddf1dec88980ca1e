"""The header of a sealed object, which stands at its beginning and again at its end.

::

    offset      size  field
    0           8     magic 89 50 59 41 52 43 0D 0A
    8           4     F, length of the fields (little endian, as every integer of the format)
    12          F     msgpack map: version, suite, archive, object, kind, slots
    12+F        1168  object key, sealed by HPKE; info = label and bytes 0 .. 12+F
    1180+F      32    MAC: keyed BLAKE3 of bytes 0 .. 1180+F
    1212+F      4     H, length of the whole header
    1216+F      8     end magic 0A 0D 43 52 41 59 50 89

The end magic and H allow a reader to find the copy at the end. BLAKE3 of the whole header is
the associated data of every segment, so a segment belongs to exactly one header.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from blake3 import blake3

from pyarchiver.formats import keys, wire
from pyarchiver.formats.aead import KEY_SIZE, Suite, suite_named
from pyarchiver.formats.errors import DamagedError, ForeignError, UnsupportedError
from pyarchiver.formats.keys import ArchiveKeys, ReadKeys, Slot, WriteKeys

MAGIC = b"\x89PYARC\r\n"
END_MAGIC = MAGIC[::-1]
FORMAT_VERSION = 1
HEADER_MAX = 64 << 10
TRAILER_SIZE = 12
_FIXED = 12 + keys.SEALED_KEY_SIZE + 32 + TRAILER_SIZE
_SLOTS_MAX = 16
_FIELDS = ("version", "suite", "archive", "object", "kind", "slots")


class Kind(IntEnum):
    """What an object holds."""

    KIT = 0
    """In no header: the kit, which lies beside the objects in plain."""
    PACK = 1
    MANIFEST = 2
    CHECKPOINT = 3
    PARITY = 4


@dataclass(frozen=True)
class Header:
    """A parsed header. `raw` is the header as read: it is hashed and MACed as it stands."""

    suite: Suite
    archive_id: bytes
    object_id: bytes
    kind: int
    slots: tuple[Slot, ...]
    raw: bytes

    @property
    def hash(self) -> bytes:
        """32 bytes: the associated data of the object's segments."""
        return blake3(self.raw).digest()

    @property
    def _sealed_key_at(self) -> int:
        return len(self.raw) - TRAILER_SIZE - 32 - keys.SEALED_KEY_SIZE

    def authentic(self, archive: ArchiveKeys) -> bool:
        """Whether the owner of the archive wrote this header."""
        mac_at = len(self.raw) - TRAILER_SIZE - 32
        expected = archive.header_mac(self.raw[:mac_at])
        return keys.same(expected, self.raw[mac_at : mac_at + 32])

    def object_key(self, archive: ReadKeys) -> bytes:
        """The key of the object's segments; DamagedError for a header that is not authentic."""
        if not self.authentic(archive):
            raise DamagedError("the header was altered or forged")
        at = self._sealed_key_at
        return archive.open_object_key(self.raw[at : at + keys.SEALED_KEY_SIZE], self.raw[:at])


def new_header(
    suite: Suite, archive: WriteKeys, slots: tuple[Slot, ...], kind: Kind
) -> tuple[Header, bytes]:
    """A header with a fresh random object id and object key; returns it and the key."""
    object_id, object_key = os.urandom(keys.ID_SIZE), os.urandom(KEY_SIZE)
    fields = wire.pack(
        {
            "version": FORMAT_VERSION,
            "suite": suite.name,
            "archive": archive.archive_id,
            "object": object_id,
            "kind": int(kind),
            "slots": list(slots),
        }
    )
    data = MAGIC + struct.pack("<I", len(fields)) + fields
    data += archive.seal_object_key(object_key, data)
    data += archive.header_mac(data)
    raw = data + struct.pack("<I", len(data) + TRAILER_SIZE) + END_MAGIC
    if len(raw) > HEADER_MAX or len(slots) > _SLOTS_MAX:
        raise ValueError(f"a header of {len(raw)} bytes: too many slots")
    return Header(suite, archive.archive_id, object_id, int(kind), slots, raw), object_key


def parse_front(data: bytes) -> Header:
    """The header at the beginning of `data` (up to 64 KiB of it are needed).

    Raises ForeignError without our magic, DamagedError where a length or field is impossible,
    UnsupportedError for a later format. Nothing is authenticated yet.
    """
    if data[:8] != MAGIC:
        raise ForeignError("no header of a pyarchiver object")
    if len(data) < 12:
        raise DamagedError("the header is cut off")
    (size,) = struct.unpack_from("<I", data, 8)
    if size + _FIXED > HEADER_MAX:
        raise DamagedError("the header gives itself more than 64 KiB")
    fields = wire.fields(wire.unpack(data[12 : 12 + size]), _FIELDS)
    version = wire.need(fields, "version", int)
    if version != FORMAT_VERSION:
        raise UnsupportedError(f"format version {version}: a newer pyarchiver wrote it")
    raw = bytes(data[: size + _FIXED])
    if len(raw) < size + _FIXED:
        raise DamagedError("the header is cut off")
    if raw[-TRAILER_SIZE:] != struct.pack("<I", len(raw)) + END_MAGIC:
        raise DamagedError("the header's end does not match its beginning")
    return _header(fields, raw)


def parse_back(data: bytes) -> Header:
    """The header at the end of `data`, for objects whose beginning is damaged."""
    if data[-8:] != END_MAGIC or len(data) < TRAILER_SIZE:
        raise DamagedError("no header at the object's end")
    (size,) = struct.unpack_from("<I", data, len(data) - TRAILER_SIZE)
    if not _FIXED <= size <= min(HEADER_MAX, len(data)):
        raise DamagedError("the header at the object's end has an impossible length")
    header = parse_front(data[-size:])
    if len(header.raw) != size:
        raise DamagedError("the header at the object's end has an impossible length")
    return header


def _header(fields: dict[str, Any], raw: bytes) -> Header:
    slots = wire.need(fields, "slots", list)
    if len(slots) > _SLOTS_MAX or not all(isinstance(slot, dict) for slot in slots):
        raise DamagedError("impossible key slots")
    return Header(
        suite_named(wire.need(fields, "suite", str)),
        wire.sized(fields, "archive", keys.ID_SIZE),
        wire.sized(fields, "object", keys.ID_SIZE),
        wire.number(fields, "kind", 0, 255),
        tuple(slots),
        raw,
    )
