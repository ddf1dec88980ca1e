"""What the small records say: about, run, settings, pack. Each body is one msgpack map."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pyarchiver.formats import wire
from pyarchiver.formats.errors import DamagedError
from pyarchiver.formats.keys import ID_SIZE

_NUMBER_MAX = (1 << 62) - 1


@dataclass(frozen=True, slots=True)
class About:
    """The first record of every object.

    `run` wrote the object, when manifest `previous` with BLAKE3 `previous_hash` was the last
    (0 and 32 zero bytes: none yet). `number` is the object's own manifest number (0 in packs);
    of a checkpoint this is part `part` (from 0), the last one carries the run records.
    `written` is in seconds since 1970.
    """

    run: int
    previous: int
    previous_hash: bytes
    number: int = 0
    part: int = 0
    written: int = 0
    program: str = ""

    def encode(self) -> bytes:
        """The record's body."""
        return wire.pack(
            {
                "run": self.run,
                "previous": self.previous,
                "hash": self.previous_hash,
                "number": self.number,
                "part": self.part,
                "written": self.written,
                "program": self.program,
            }
        )

    @classmethod
    def decode(cls, body: memoryview) -> About:
        """The about record in `body`."""
        names = ("run", "previous", "hash", "number", "part", "written", "program")
        fields = wire.fields(wire.unpack(body), names)
        return cls(
            wire.number(fields, "run", 1, _NUMBER_MAX),
            wire.number(fields, "previous", 0, _NUMBER_MAX),
            wire.sized(fields, "hash", 32),
            wire.number(fields, "number", 0, _NUMBER_MAX),
            wire.number(fields, "part", 0, _NUMBER_MAX),
            wire.number(fields, "written", 0, _NUMBER_MAX),
            wire.need(fields, "program", str),
        )


@dataclass(frozen=True, slots=True)
class RunComplete:
    """A run that ended: it makes snapshot `run`. Times in ns since 1970; what the tree held."""

    run: int
    began: int
    ended: int
    files: int
    size: int

    def encode(self) -> bytes:
        """The record's body."""
        return wire.pack(
            {
                "run": self.run,
                "began": self.began,
                "ended": self.ended,
                "files": self.files,
                "size": self.size,
            }
        )

    @classmethod
    def decode(cls, body: memoryview) -> RunComplete:
        """The run record in `body`."""
        names = ("run", "began", "ended", "files", "size")
        fields = wire.fields(wire.unpack(body), names)
        values = [wire.number(fields, name, 0, _NUMBER_MAX) for name in names]
        if not values[0]:
            raise DamagedError("a run numbered 0")
        return cls(*values)


@dataclass(frozen=True, slots=True)
class PackInfo:
    """One pack of the archive, in a manifest; `indexes` pack-index records follow it.

    `blake3` is that of the whole object, `header` a copy of its header.
    """

    object_id: bytes
    run: int
    size: int
    blake3: bytes
    header: bytes
    indexes: int

    def encode(self) -> bytes:
        """The record's body."""
        return wire.pack(
            {
                "object": self.object_id,
                "run": self.run,
                "size": self.size,
                "blake3": self.blake3,
                "header": self.header,
                "indexes": self.indexes,
            }
        )

    @classmethod
    def decode(cls, body: memoryview) -> PackInfo:
        """The pack record in `body`."""
        names = ("object", "run", "size", "blake3", "header", "indexes")
        fields = wire.fields(wire.unpack(body), names)
        return cls(
            wire.sized(fields, "object", ID_SIZE),
            wire.number(fields, "run", 1, _NUMBER_MAX),
            wire.number(fields, "size", 1, _NUMBER_MAX),
            wire.sized(fields, "blake3", 32),
            wire.need(fields, "header", bytes),
            wire.number(fields, "indexes", 0, 1 << 20),
        )


@dataclass(frozen=True, slots=True)
class Settings:
    """The archive's settings, for rebuilding a lost .archive; never credentials."""

    values: dict[str, str] = field(default_factory=dict)

    def encode(self) -> bytes:
        """The record's body."""
        return wire.pack(self.values)

    @classmethod
    def decode(cls, body: memoryview) -> Settings:
        """The settings record in `body`."""
        fields: dict[str, Any] = wire.fields(wire.unpack(body), ())
        if not all(isinstance(value, str) for value in fields.values()):
            raise DamagedError("impossible settings")
        return cls(fields)
