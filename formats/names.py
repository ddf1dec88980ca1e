"""Names of objects: `<archive tag>-<kind>[-<manifest number>]-<object id>`, and of the kit.

`tag` is the first 6 bytes of the archive id in hex, kind one of p, m, c; the number is that of
the manifest (m), or of the last manifest that the checkpoint covers (c), in 8 digits; the
object id is 16 random bytes in hex. A name is never used twice and never overwritten.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from pyarchiver.formats.header import Kind

_LETTER = {Kind.PACK: "p", Kind.MANIFEST: "m", Kind.CHECKPOINT: "c"}
_KIT = re.compile(r"([0-9a-f]{12})-kit-([0-9a-f]{32})\.zip")
_KIND = {letter: kind for kind, letter in _LETTER.items()}
_NAME = re.compile(r"([0-9a-f]{12})-(?:p|([mc])-([0-9]{8}|[1-9][0-9]{8,17}))-([0-9a-f]{32})")


@dataclass(frozen=True, slots=True)
class ObjectName:
    """A name taken apart; `number` is 0 for packs and the kit."""

    tag: str
    kind: Kind
    number: int
    object_id: bytes

    def __str__(self) -> str:
        if self.kind == Kind.KIT:
            return f"{self.tag}-kit-{self.object_id.hex()}.zip"
        number = f"-{self.number:08}" if self.kind != Kind.PACK else ""
        return f"{self.tag}-{_LETTER[self.kind]}{number}-{self.object_id.hex()}"


def tag_of(archive_id: bytes) -> str:
    """The tag that begins every name of the archive."""
    return archive_id[:6].hex()


def object_name(archive_id: bytes, kind: Kind, number: int, object_id: bytes) -> str:
    """The name of a new object."""
    return str(ObjectName(tag_of(archive_id), kind, number, object_id))


def parse_name(name: str) -> ObjectName | None:
    """`name` taken apart, or None for a name that is not ours."""
    if match := _KIT.fullmatch(name):
        return ObjectName(match[1], Kind.KIT, 0, bytes.fromhex(match[2]))
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    tag, letter, number, object_id = match.groups()
    return ObjectName(tag, _KIND[letter or "p"], int(number or 0), bytes.fromhex(object_id))
