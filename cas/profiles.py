"""Profiles: what differs between storages.

A profile says what a storage can do, how its objects are thawed, and what it charges. Those that
are known stand in profiles.ini, with the figures of the day that `prices` names; the ini's section
[profile] replaces them (figures.py reads both).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

# Of what the link could carry in a window: downloads stall, and other things use the link.
WINDOW_SHARE = 0.5
MINUTE, HOUR, DAY = 60.0, 3600.0, 86_400.0


class Way(StrEnum):
    """How an object becomes readable."""

    NONE = "none"
    """It always is."""
    REQUEST = "request"
    """By a request, and the storage tells how far it is."""
    READING = "reading"
    """The first read fails and starts it; only another read shows whether it is done."""


@dataclass(frozen=True, slots=True)
class Terms:
    """A storage's terms for reading back; times in seconds, `rate` in bytes a second.

    `delay` and `longest`: from the request until it can be read, as a rule and at most; `window`:
    how long it can then be read; `poll`: between looks at what is overdue; `rate`: of the
    download, until it is measured; `tier`: of the request, as the storage names it.
    """

    way: Way = Way.NONE
    delay: float = 0.0
    longest: float = 0.0
    window: float = DAY
    poll: float = 15 * MINUTE
    rate: float = 10e6
    tier: str = ""

    @property
    def days(self) -> int:
        """The window in days, as requests for a thaw count it."""
        return max(1, math.ceil(self.window / DAY))

    def holds(self, asked: float, until: float | None, now: float) -> bool:
        """Whether a thaw asked for then is under way or can be read still: no new one is paid.

        Nothing was asked for in the future: what a wrong clock wrote down would hold for ever.
        """
        if until is not None:
            return now < until
        return asked - HOUR < now < asked + self.longest + self.window

    def is_open(self, asked: float, now: float) -> bool:
        """Whether an object can be read, where only reading shows it, however soon it opened.

        So a read does not ask for it anew, which would be paid.
        """
        return self.way == Way.READING and asked + self.delay <= now < asked + self.window

    def budget(self, rate: float) -> float:
        """Bytes that may be asked for and not yet fetched, at a download of `rate`."""
        return rate * self.window * WINDOW_SHARE


@dataclass(frozen=True, slots=True)
class Prices:
    """What a storage charges, in `currency`, without tax; None: not known.

    `storage` and `copy` (of a thawed object, while it can be read) for a GB (10^9 bytes) and 30
    days, `thaw` and `download` for a GB, `thaws` for 1,000 requests.
    """

    currency: str = "EUR"
    storage: float | None = 0.0
    thaw: float | None = 0.0
    thaws: float | None = 0.0
    copy: float | None = 0.0
    download: float | None = 0.0
    source: str = ""


@dataclass(frozen=True, slots=True)
class Profile:
    """One kind of storage, `scheme` that of its URLs.

    `rename`, `append`, `utime`: whether files can be; `sizes`: whether it tells the size of an
    object; `ranges`: whether a part of an object can be read. Objects deleted within
    `minimum_days` are charged as if they had stayed; each object is charged for `overhead` bytes
    more than it has. Storage classes: empty for the storage's own.
    """

    name: str
    scheme: str = "file"
    rename: bool = True
    append: bool = True
    utime: bool = True
    sizes: bool = True
    ranges: bool = True
    pack_class: str = ""
    manifest_class: str = ""
    minimum_days: int = 0
    overhead: int = 0
    terms: Terms = Terms()
    prices: Prices = Prices()

    def storage_class(self, is_pack: bool) -> str:
        """The class of packs, which are read rarely, or of manifests and checkpoints."""
        return self.pack_class if is_pack else self.manifest_class
