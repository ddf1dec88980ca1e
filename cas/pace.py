"""Keeps what is sent or fetched below a number of bytes a second, and tells how much it was."""

from __future__ import annotations

import time
from collections.abc import Callable
from io import BufferedReader, FileIO
from pathlib import Path

# Seconds that may be caught up after a pause: a link that was idle is not owed a burst.
_CREDIT = 0.25


class Pace:
    """Sleeps as long as needed; a rate of 0 never does. `tell(bytes)` hears of all. For one thread.

    A copy in another process tells nobody.
    """

    def __init__(
        self,
        rate: float,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.rate = rate
        self._now = now
        self._sleep = sleep
        self._due = 0.0
        self.tell: Callable[[int], None] | None = None

    def __reduce__(self) -> tuple[type[Pace], tuple[float]]:
        return Pace, (self.rate,)

    def spend(self, count: int) -> None:
        """To be called after each `count` bytes."""
        if self.tell:
            self.tell(count)
        if not self.rate:
            return
        now = self._now()
        self._due = max(self._due, now - _CREDIT) + count / self.rate
        if self._due > now:
            self._sleep(self._due - now)

    def reading(self, read: Callable[[memoryview], int]) -> Callable[[memoryview], int]:
        """A function that reads into memory, at this pace."""

        def paced(into: memoryview) -> int:
            count = read(into)
            self.spend(count)
            return count

        return paced


class PacedFile(BufferedReader):
    """A file that is read to be sent, at a pace."""

    def __init__(self, path: Path, pace: Pace) -> None:
        super().__init__(FileIO(path))
        self._pace = pace

    def read(self, size: int | None = -1, /) -> bytes:
        """The next bytes."""
        data = super().read(size)
        self._pace.spend(len(data))
        return data
