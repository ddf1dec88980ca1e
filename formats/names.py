"""Names: `<archive tag>-<kind>[-<manifest number>]-<object id>[.<attempt>]`, and of the kit.

`tag` is the first 6 bytes of the archive id in hex, kind one of p, m, c; the number is that of
the manifest (m), or of the last manifest that the checkpoint covers (c), in 8 digits; the
object id is 16 random bytes in hex. A name is never used twice and never overwritten: where a put
was cut and its outcome is not known, the same object goes under the name of the next attempt.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from pyarchiver.formats.header import Kind

_LETTER = {Kind.PACK: "p", Kind.MANIFEST: "m", Kind.CHECKPOINT: "c"}
_KIND = {letter: kind for kind, letter in _LETTER.items()}
_ATTEMPT = r"([0-9a-f]{32})(?:\.([2-9]|[1-9][0-9]{1,3}))?"
_NAME = re.compile(r"([0-9a-f]{12})-(?:p|([mc])-([0-9]{8}|[1-9][0-9]{8,17}))-" + _ATTEMPT)
_KIT = re.compile(r"([0-9a-f]{12})-kit-" + _ATTEMPT + r"\.zip")


@dataclass(frozen=True, slots=True)
class ObjectName:
    """A name taken apart; `number` is 0 for packs and the kit, `attempt` 1 where there is none."""

    tag: str
    kind: Kind
    number: int
    object_id: bytes
    attempt: int = 1

    def __str__(self) -> str:
        attempt = f".{self.attempt}" if self.attempt > 1 else ""
        if self.kind == Kind.KIT:
            return f"{self.tag}-kit-{self.object_id.hex()}{attempt}.zip"
        number = f"-{self.number:08}" if self.kind != Kind.PACK else ""
        return f"{self.tag}-{_LETTER[self.kind]}{number}-{self.object_id.hex()}{attempt}"


def tag_of(archive_id: bytes) -> str:
    """The tag that begins every name of the archive."""
    return archive_id[:6].hex()


def object_name(archive_id: bytes, kind: Kind, number: int, object_id: bytes) -> str:
    """The name of a new object."""
    return str(ObjectName(tag_of(archive_id), kind, number, object_id))


def parse_name(name: str) -> ObjectName | None:
    """`name` taken apart, or None for a name that is not ours."""
    if match := _KIT.fullmatch(name):
        return ObjectName(match[1], Kind.KIT, 0, bytes.fromhex(match[2]), int(match[3] or 1))
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    tag, letter, number, object_id, attempt = match.groups()
    kind = _KIND[letter or "p"]
    return ObjectName(tag, kind, int(number or 0), bytes.fromhex(object_id), int(attempt or 1))


def first_name(name: str) -> str:
    """The name of the first attempt at an object."""
    parsed = parse_name(name)
    return str(replace(parsed, attempt=1)) if parsed else name


def another_name(name: str) -> str:
    """The name of the next attempt at an object of ours."""
    parsed = parse_name(name)
    assert parsed is not None
    return str(replace(parsed, attempt=parsed.attempt + 1))
