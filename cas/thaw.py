"""Thaw: asks for cold objects in waves that can be fetched before they become cold again.

::

    pending -- look --> warm, thawed ------------------------------> ready --> fetched
       |                                                              ^
       +--> cold: intent committed -> storage.thaw --> thawing -- due: look

What is asked for and not yet fetched never exceeds what can be fetched within the window for
which a thawed object stays readable (`Terms.budget`): so even if all of it opens at once, the last
is fetched before it closes. As each object is fetched, the next is asked for.

Every request is in the .archive, intent first: a restore that was killed, or that is run again
days later, into another folder or on another machine, asks only for what lapsed or was never
asked for. Where the storage tells what it is doing, that is believed; where reading is the only
way to ask and to see, the record is.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from pyarchiver.cas.catalogue import Catalogue
from pyarchiver.cas.plan import Needed
from pyarchiver.cas.profiles import Terms, Way
from pyarchiver.cas.progress import Observer
from pyarchiver.cas.rows import ThawRow
from pyarchiver.cas.storage import Heat, Storage
from pyarchiver.formats.errors import MissingError

# A machine that was asleep finds out soon what the time is.
_NAP = 60.0
# Before a measured rate is believed: small reads are all latency.
_MEASURE_MIN = 16 << 20


class Clock(Protocol):
    """Time as the engine sees it."""

    def now(self) -> float:
        """Seconds since 1970."""

    def sleep(self, seconds: float) -> None:
        """Let time pass."""


class SystemClock:
    """The machine's own."""

    def now(self) -> float:
        """Seconds since 1970."""
        return time.time()

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        time.sleep(seconds)


@dataclass(slots=True)
class _Thaw:
    """An object that is under way, and when to look at it again."""

    needed: Needed
    due: float


class Thawing:
    """The objects that a restore needs, in the order in which they can be read.

    `approve` is called once with all that is needed, before anything is asked for; it may raise.
    With `wait`, `next` sleeps until something is ready; without, it returns None then.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        storage: Storage,
        terms: Terms,
        observer: Observer,
        *,
        wait: bool = False,
        clock: Clock | None = None,
        approve: Callable[[list[Needed]], None] | None = None,
    ) -> None:
        self._catalogue = catalogue
        self._storage = storage
        self._terms = terms
        self._observer = observer
        self._wait = wait
        self._clock = clock or SystemClock()
        self._approve = approve
        self._pending: deque[Needed] = deque()
        self._ready: deque[Needed] = deque()
        self._thawing: list[_Thaw] = []
        self._outstanding = 0
        self._asked = self._told = 0
        self._fetched_size = 0
        self._fetched_seconds = 0.0
        self._began = 0.0

    def add(self, needed: Iterable[Needed]) -> None:
        """What is to be read."""
        everything = list(needed)
        if self._approve:
            self._approve(everything)
        self._pending.extend(everything)

    def ask(self) -> None:
        """Look at, and ask for, as much as fits into the window."""
        before = self._asked
        while self._pending and self._fits(self._pending[0]):
            self._look(self._pending.popleft())
        if self._asked > before:
            self._observer.notice(f"asked for the thaw of {self._asked - before:,} objects")

    def next(self) -> Needed | None:
        """An object that can be read now; None where there is none (yet). See `waiting`."""
        while True:
            self.ask()
            if self._ready:
                self._began = self._clock.now()
                return self._ready.popleft()
            if not self._thawing:
                return None
            pause = min(thaw.due for thaw in self._thawing) - self._clock.now()
            if pause > 0:
                if not self._wait:
                    return None
                self._tell()
                self._clock.sleep(min(pause, _NAP))
            self._look_again()

    def fetched(self, needed: Needed) -> None:
        """The object that `next` gave was read: makes room for others, measures the download."""
        self._outstanding -= needed.row.size
        self._fetched_size += needed.read
        self._fetched_seconds += self._clock.now() - self._began
        if self._fetched_size >= _MEASURE_MIN and self._fetched_seconds > 0:
            self._catalogue.set_download_rate(self._fetched_size / self._fetched_seconds)

    def refused(self, needed: Needed) -> None:
        """The object that `next` gave was cold when it was read."""
        now = self._clock.now()
        row = self._catalogue.thaw(needed.row.id)
        if self._terms.way == Way.READING and row is not None:
            if now >= row.asked + self._terms.longest:
                # It lapsed, and the read which failed has asked anew.
                self._record(needed, now)
            self._thawing.append(_Thaw(needed, now + self._terms.poll))
            return
        self._outstanding -= needed.row.size
        self._look(needed)
        if self._ready and self._ready[-1] is needed:
            # The storage says that it can be read, and it cannot.
            self._ready.pop()
            self._thawing.append(_Thaw(needed, now + self._terms.poll))

    def waiting(self) -> tuple[int, int, float | None]:
        """(objects that are not readable yet, their bytes, when about the first of them is)."""
        rows = [thaw.needed.row for thaw in self._thawing] + [n.row for n in self._pending]
        due = min((thaw.due for thaw in self._thawing), default=None)
        return len(rows), sum(row.size for row in rows), due

    def readable(self) -> tuple[int, int]:
        """(objects that are readable now and not fetched, their bytes)."""
        return len(self._ready), sum(needed.row.size for needed in self._ready)

    def _fits(self, needed: Needed) -> bool:
        rate = self._catalogue.download_rate or self._terms.rate
        size = self._outstanding + needed.row.size
        return not self._outstanding or size <= self._terms.budget(rate)

    def _look(self, needed: Needed) -> None:
        """Find out how cold an object is; ask for it where nobody has."""
        self._outstanding += needed.row.size
        now = self._clock.now()
        row = self._catalogue.thaw(needed.row.id)
        try:
            stored = self._storage.look(needed.row.name)
        except MissingError:
            # Whoever reads it reports what is lost with it.
            self._ready.append(needed)
            return
        match stored.heat:
            case Heat.WARM:
                self._ready.append(needed)
            case Heat.THAWED:
                asked = row.asked if row else now
                self._catalogue.record_thaw(needed.row.id, ThawRow(asked, asked, stored.until))
                self._ready.append(needed)
            case Heat.THAWING:
                ready = stored.until or (row.ready if row else now + self._terms.delay)
                if row is None:
                    self._catalogue.record_thaw(needed.row.id, ThawRow(now, ready, None))
                self._thawing.append(_Thaw(needed, self._due(ready, now)))
            case Heat.COLD if row and row.confirmed and self._may_be_readable(row, now):
                if now >= row.ready:
                    self._ready.append(needed)
                else:
                    self._thawing.append(_Thaw(needed, row.ready))
            case Heat.COLD:
                self._request(needed, now)

    def _may_be_readable(self, row: ThawRow, now: float) -> bool:
        """Whether a request still holds, where only reading shows it."""
        terms = self._terms
        return terms.way == Way.READING and now < row.asked + terms.longest + terms.window

    def _request(self, needed: Needed, now: float) -> None:
        self._catalogue.record_thaw(
            needed.row.id, ThawRow(now, now + self._terms.delay, None, confirmed=False)
        )
        self._storage.thaw(needed.row.name, self._terms.days, self._terms.tier)
        self._record(needed, now)
        self._asked += 1
        self._thawing.append(_Thaw(needed, now + self._terms.delay))

    def _record(self, needed: Needed, now: float) -> None:
        self._catalogue.record_thaw(needed.row.id, ThawRow(now, now + self._terms.delay, None))

    def _look_again(self) -> None:
        now = self._clock.now()
        due = [thaw for thaw in self._thawing if thaw.due <= now]
        self._thawing = [thaw for thaw in self._thawing if thaw.due > now]
        for thaw in due:
            self._outstanding -= thaw.needed.row.size
            self._look(thaw.needed)

    def _tell(self) -> None:
        count, _, _ = self.waiting()
        if count != self._told:
            self._told = count
            self._observer.notice(f"waiting for {count:,} objects to thaw")

    def _due(self, ready: float, now: float) -> float:
        return ready if ready > now else now + self._terms.poll
