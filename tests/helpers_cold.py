"""A cold storage in a folder, on a clock that only the test moves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from pyarchiver.cas.local import LocalStorage
from pyarchiver.cas.storage import Heat, Stored
from pyarchiver.formats.errors import ColdError

HOUR = 3600.0


class FakeClock:
    """Moves when it is told to, and when somebody sleeps."""

    def __init__(self) -> None:
        self.time = 1_800_000_000.0
        self.slept = 0.0

    def now(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.time += seconds
        self.slept += seconds


class ColdFolder(LocalStorage):
    """Objects are cold from the start; `requests` counts the thaws that began, by name.

    A read costs `1 / rate` seconds a byte. With `blind`, it tells nothing of what is going on: a
    read of a cold object starts its thaw, and fails.
    """

    def __init__(
        self,
        folder: Path,
        clock: FakeClock,
        *,
        delay: float = 4 * HOUR,
        window: float = 24 * HOUR,
        rate: float = 1e6,
        blind: bool = False,
    ) -> None:
        super().__init__(folder)
        self.clock = clock
        self.delay = delay
        self.window = window
        self.rate = rate
        self.blind = blind
        self.asked: dict[str, float] = {}
        self.requests: Counter[str] = Counter()
        self.most_outstanding = 0
        self.lapsed = 0
        self.warm: set[str] = set()
        self._read: set[str] = set()

    def heat(self, name: str) -> Heat:
        """How cold an object is at this moment."""
        if name in self.warm:
            return Heat.WARM
        since = self.clock.now() - self.asked.get(name, -1e12)
        if since < self.delay:
            return Heat.THAWING
        return Heat.THAWED if since < self.delay + self.window else Heat.COLD

    def get_into(self, name: str, start: int, into: memoryview) -> int:
        self.size(name)
        if self.heat(name) not in (Heat.WARM, Heat.THAWED):
            if self.blind:
                self._begin(name)
            raise ColdError(f"object {name} is cold")
        self._read.add(name)
        count = super().get_into(name, start, into)
        self.clock.time += count / self.rate
        return count

    def look(self, name: str) -> Stored:
        size = self.size(name)
        if self.blind:
            return Stored(name, None, Heat.COLD)
        heat = self.heat(name)
        until = None
        if heat == Heat.THAWED:
            until = self.asked[name] + self.delay + self.window
        return Stored(name, size, heat, until)

    def list(self) -> Iterator[Stored]:
        return (self.look(stored.name) for stored in super().list())

    def thaw(self, name: str, days: int, tier: str) -> None:
        self._begin(name)

    def _begin(self, name: str) -> None:
        if self.heat(name) == Heat.COLD:
            if name in self.asked and name not in self._read:
                self.lapsed += 1
            self.requests[name] += 1
            self.asked[name] = self.clock.now()
            self._read.discard(name)
            waiting = sum(
                self.size(other)
                for other in self.asked
                if other not in self._read and self.heat(other) != Heat.COLD
            )
            self.most_outstanding = max(self.most_outstanding, waiting)
