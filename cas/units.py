"""Sizes and times as ini files and options give them, to numbers and back; counts of things."""

from __future__ import annotations

import re

from pyarchiver.formats.errors import SettingsError

_SIZES = {
    "": 1, "B": 1, "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30, "TIB": 1 << 40,
    "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
}  # fmt: skip
_TIMES = {"s": 1.0, "min": 60.0, "h": 3600.0, "d": 86_400.0}


def parse_size(text: str) -> int:
    """Bytes of a size such as 232 MiB or 10MB; SettingsError where it is none."""
    match = re.fullmatch(r"(\d{1,15})\s*([a-z]*)", text.strip(), re.IGNORECASE)
    unit = _SIZES.get(match[2].upper()) if match else None
    if match is None or unit is None:
        raise SettingsError(f"{text!r} is no size such as 232 MiB or 64 MB")
    return int(match[1]) * unit


def size_text(size: float) -> str:
    """The exact size, in the largest unit of which it is a multiple."""
    units = sorted(((unit, name) for name, unit in _SIZES.items() if name), reverse=True)
    unit, name = next(found for found in units if not int(size) % found[0])
    return f"{int(size) // unit} {name.replace('IB', 'iB')}"


def parse_duration(text: str) -> float:
    """Seconds of a time such as 15 min, 12 h or 2 d; SettingsError where it is none."""
    match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,3})?)\s*(s|min|h|d)", text.strip())
    if match is None:
        raise SettingsError(f"{text!r} is no time such as 15 min, 12 h or 2 d")
    return float(match[1]) * _TIMES[match[2]]


def duration_text(seconds: float) -> str:
    """The exact time, in the largest unit of which it is a multiple."""
    unit = next(
        unit for unit in ("d", "h", "min", "s") if unit == "s" or not seconds % _TIMES[unit]
    )
    return f"{seconds / _TIMES[unit]:g} {unit}"


def count_text(count: int, one: str, many: str = "") -> str:
    """A number of things: `1 file`, `1,200 files`; `many` where that is not `one` and an s."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"
