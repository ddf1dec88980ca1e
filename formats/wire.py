"""msgpack with limits: every map of the format is packed and checked here.

Field names that begin with an upper-case letter are *critical*: a reader that does not know
one refuses the value. Other unknown fields are ignored, so that a later version can add some.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import Any, TypeVar, cast

import msgpack

from pyarchiver.formats.errors import DamagedError, UnsupportedError

T = TypeVar("T")

# Names and paths that are no UTF-8 keep their bytes.
_ERRORS = "surrogateescape"

pack: Callable[[Any], bytes] = msgpack.Packer(
    use_bin_type=True, autoreset=True, unicode_errors=_ERRORS
).pack
"""One value as msgpack; not for use by several threads at once."""


def _no_extensions(code: int, data: bytes) -> None:
    raise ValueError(f"extension type {code}")


def _each_once(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    """Two fields of one name would be read in one way here and in another elsewhere."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a field stands twice")
    return found


_RULES: dict[str, Any] = {
    "raw": False,
    "use_list": True,
    "strict_map_key": True,
    # Timestamps come past the hook, which is left with extensions of no bytes.
    "max_ext_len": 0,
    "ext_hook": _no_extensions,
    "object_pairs_hook": _each_once,
    "unicode_errors": _ERRORS,
}
_IMPOSSIBLE = (ValueError, TypeError, RecursionError, msgpack.UnpackException)


def unpack(data: bytes | memoryview) -> Any:
    """The single msgpack value in `data`; lengths inside cannot exceed `len(data)`.

    Raises DamagedError for anything else, trailing bytes included.
    """
    try:
        return msgpack.unpackb(data, **_RULES)
    except _IMPOSSIBLE as error:
        raise DamagedError(f"not a msgpack value: {error}") from None


def unpack_each(data: bytes, limit: int) -> Iterator[Any]:
    """The msgpack values standing one after another in `data`, at most `limit` bytes of it.

    Raises DamagedError at the first that is impossible or cut off.
    """
    if len(data) > limit:
        raise DamagedError(f"{len(data)} bytes of values, more than the {limit} allowed")
    unpacker = msgpack.Unpacker(max_buffer_size=max(1, len(data)), **_RULES)
    unpacker.feed(data)
    while unpacker.tell() < len(data):
        try:
            value = unpacker.unpack()
        except _IMPOSSIBLE as error:
            raise DamagedError(f"not a sequence of msgpack values: {error}") from None
        yield value


def fields(value: object, known: Collection[str]) -> dict[str, Any]:
    """`value` as a map of named fields; refuses unknown critical names."""
    if not isinstance(value, dict):
        raise DamagedError("expected a map of named fields")
    for name in value:
        if name in known:
            continue
        if not isinstance(name, str):
            raise DamagedError("expected a map of named fields")
        if name[:1].isupper():
            raise UnsupportedError(f"unknown critical field {name!r}: a newer pyarchiver wrote it")
    return cast(dict[str, Any], value)


def need(map_: dict[str, Any], name: str, kind: type[T]) -> T:
    """The field `name`, which must be there and be exactly of type `kind`."""
    value = map_.get(name)
    if type(value) is not kind:
        raise DamagedError(f"field {name!r} is missing or not of type {kind.__name__}")
    return value


def number(map_: dict[str, Any], name: str, low: int, high: int) -> int:
    """The integer field `name`, from `low` to `high` inclusive."""
    value = map_.get(name)
    if type(value) is int and low <= value <= high:
        return value
    value = need(map_, name, int)
    raise DamagedError(f"field {name!r} is {value}, outside {low} to {high}")


def sized(map_: dict[str, Any], name: str, length: int) -> bytes:
    """The binary field `name`, of exactly `length` bytes."""
    value = need(map_, name, bytes)
    if len(value) != length:
        raise DamagedError(f"field {name!r} has {len(value)} bytes, not {length}")
    return value
