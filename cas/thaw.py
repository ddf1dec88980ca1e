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

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Generic, Protocol, TypeVar

from pyarchiver.cas.clock import Clock, SystemClock
from pyarchiver.cas.profiles import Terms, Way
from pyarchiver.cas.progress import Observer
from pyarchiver.cas.rows import ThawRow
from pyarchiver.cas.storage import Heat, Storage, Stored
from pyarchiver.cas.units import count_text
from pyarchiver.formats.errors import ColdError, MissingError

# A machine that was asleep finds out soon what the time is.
_NAP = 60.0
# Before a measured rate is believed: small reads are all latency.
_MEASURE_MIN = 16 << 20


class Asked(Protocol):
    """An object in a storage: its row in the records, its name, its bytes."""

    @property
    def id(self) -> int:
        """The row."""

    @property
    def name(self) -> str:
        """The name."""

    @property
    def size(self) -> int:
        """All its bytes."""


class Wanted(Protocol):
    """An object that is needed, and how many bytes of it."""

    @property
    def row(self) -> Asked:
        """The object."""

    @property
    def read(self) -> int:
        """Bytes that will be read of it."""


class Records(Protocol):
    """What was asked for, and how fast the last downloads were; a catalogue, or `Memory`."""

    def thaw(self, object_row: int) -> ThawRow | None:
        """What was asked for of an object."""

    def record_thaw(self, object_row: int, row: ThawRow) -> None:
        """Keep what is asked for, or known of it now."""

    @property
    def download_rate(self) -> float | None:
        """Bytes a second."""

    def set_download_rate(self, rate: float) -> None:
        """Keep a measured rate."""


class Memory:
    """Records for as long as the program runs, where there is no catalogue (yet)."""

    def __init__(self) -> None:
        self._thaws: dict[int, ThawRow] = {}
        self.download_rate: float | None = None

    def thaw(self, object_row: int) -> ThawRow | None:
        """What was asked for of an object."""
        return self._thaws.get(object_row)

    def record_thaw(self, object_row: int, row: ThawRow) -> None:
        """Kept."""
        self._thaws[object_row] = row

    def set_download_rate(self, rate: float) -> None:
        """Kept."""
        self.download_rate = rate


W = TypeVar("W", bound=Wanted)


@dataclass(slots=True)
class _Thaw(Generic[W]):
    """An object that is under way, when about it can be read, and when to look at it again."""

    needed: W
    ready: float
    due: float


class Thawing(Generic[W]):
    """The objects that a restore needs, in the order in which they can be read.

    With `wait`, `next` sleeps until something is ready; without, it returns None then.
    """

    def __init__(
        self,
        records: Records,
        storage: Storage,
        terms: Terms,
        observer: Observer,
        *,
        wait: bool = False,
        clock: Clock | None = None,
    ) -> None:
        self._records = records
        self._storage = storage
        self._terms = terms
        self._observer = observer
        self._wait = wait
        self._clock = clock or SystemClock()
        self._pending: deque[W] = deque()
        self._ready: deque[W] = deque()
        self._thawing: list[_Thaw[W]] = []
        self._outstanding = 0
        self.asked = self._told = 0
        self._fetched_size = 0
        self._fetched_seconds = 0.0
        self._began = 0.0

    def add(self, needed: Iterable[W]) -> None:
        """What is to be read."""
        self._pending.extend(needed)

    def ask(self) -> None:
        """Look at, and ask for, as much as fits into the window."""
        before = self.asked
        while self._pending and self._fits(self._pending[0]):
            self._look(self._pending.popleft())
        if self.asked > before:
            asked = count_text(self.asked - before, "object")
            self._observer.notice(f"asked for the thaw of {asked}")

    def next(self) -> W | None:
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

    def each(self, read: Callable[[W], None]) -> None:
        """Read whatever can be read; an object that proves to be cold is asked for again."""
        while (needed := self.next()) is not None:
            try:
                read(needed)
            except ColdError:
                self.refused(needed)
            else:
                self.fetched(needed)

    def fetched(self, needed: W) -> None:
        """The object that `next` gave was read: makes room for others, measures the download."""
        self._outstanding -= needed.row.size
        self._fetched_size += needed.read
        self._fetched_seconds += self._clock.now() - self._began
        if self._fetched_size >= _MEASURE_MIN and self._fetched_seconds > 0:
            self._records.set_download_rate(self._fetched_size / self._fetched_seconds)

    def refused(self, needed: W) -> None:
        """The object that `next` gave was cold when it was read."""
        now = self._clock.now()
        row = self._records.thaw(needed.row.id)
        if self._terms.way == Way.READING and row is not None:
            if now >= row.asked + self._terms.longest:
                # It lapsed, and the read which failed has asked anew.
                self._record(needed, now)
            self._later(needed, now)
            return
        if self._only_reading_tells(row):
            self._record(needed, now)
            self._watch(needed, now + self._terms.delay, now)
            return
        self._outstanding -= needed.row.size
        self._look(needed)
        if self._ready and self._ready[-1] is needed:
            # The storage says that it can be read, and it cannot.
            self._ready.pop()
            self._later(needed, now)

    def waiting(self) -> tuple[int, int, float | None]:
        """(objects that are not readable yet, their bytes, when about the first of them is)."""
        rows = [thaw.needed.row for thaw in self._thawing] + [n.row for n in self._pending]
        ready = min((thaw.ready for thaw in self._thawing), default=None)
        return len(rows), sum(row.size for row in rows), ready

    @property
    def pending(self) -> int:
        """Objects that nobody looked at yet: they do not fit into this wave."""
        return len(self._pending)

    def _fits(self, needed: W) -> bool:
        rate = self._records.download_rate or self._terms.rate
        size = self._outstanding + needed.row.size
        return not self._outstanding or size <= self._terms.budget(rate)

    def _look(self, needed: W) -> None:
        """Find out how cold an object is; ask for it where nobody has."""
        self._outstanding += needed.row.size
        now = self._clock.now()
        row = self._records.thaw(needed.row.id)
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
                self._records.record_thaw(needed.row.id, ThawRow(asked, asked, stored.until))
                self._ready.append(needed)
            case Heat.THAWING:
                ready = stored.until or (row.ready if row else now + self._terms.delay)
                if row is None:
                    self._records.record_thaw(needed.row.id, ThawRow(now, ready, None))
                self._watch(needed, ready, now)
            case Heat.COLD if row and row.confirmed and self._may_be_readable(row, now):
                if now >= row.ready:
                    self._ready.append(needed)
                else:
                    self._watch(needed, row.ready, now)
            case Heat.COLD if self._only_reading_tells(row):
                self._ready.append(needed)
            case Heat.COLD:
                self._request(needed, now)

    def _may_be_readable(self, row: ThawRow, now: float) -> bool:
        """Whether a request still holds, where only reading shows it."""
        return self._terms.way == Way.READING and self._terms.holds(row.asked, None, now)

    def _only_reading_tells(self, row: ThawRow | None) -> bool:
        """Whether nobody knows if a thaw was asked for: the first read shows it, or asks."""
        return self._terms.way == Way.READING and row is None and isinstance(self._records, Memory)

    def _request(self, needed: W, now: float) -> None:
        self._records.record_thaw(
            needed.row.id, ThawRow(now, now + self._terms.delay, None, confirmed=False)
        )
        self._storage.thaw(needed.row.name, self._terms.days, self._terms.tier)
        if self._terms.way == Way.READING and self._can_be_read(needed):
            # Somebody else asked, or this is a catalogue made anew.
            self._records.record_thaw(needed.row.id, ThawRow(now, now, None))
            self._ready.append(needed)
            return
        self._record(needed, now)
        self.asked += 1
        self._watch(needed, now + self._terms.delay, now)

    def _can_be_read(self, needed: W) -> bool:
        try:
            return self._storage.get_into(needed.row.name, 0, memoryview(bytearray(1))) > 0
        except ColdError:
            return False

    def _record(self, needed: W, now: float) -> None:
        self._records.record_thaw(needed.row.id, ThawRow(now, now + self._terms.delay, None))

    def _look_again(self) -> None:
        now = self._clock.now()
        due = [thaw for thaw in self._thawing if thaw.due <= now]
        self._thawing = [thaw for thaw in self._thawing if thaw.due > now]
        for thaw in due:
            self._outstanding -= thaw.needed.row.size
            self._look(thaw.needed)

    def _tell(self) -> None:
        count, _, ready = self.waiting()
        if count != self._told:
            self._told = count
            told = count_text(count, "object")
            self._observer.notice(f"waiting for {told} to thaw{when(ready)}")

    def _watch(self, needed: W, ready: float, now: float) -> None:
        """Look again when it should be readable, and overdue ones at the interval of the terms.

        Where looking costs nothing, early enough that one which is thawed sooner than expected
        does not lapse unseen.
        """
        if ready <= now:
            self._later(needed, now)
            return
        due = ready
        if self._terms.way == Way.REQUEST:
            due = min(ready, now + max(self._terms.poll, self._terms.window / 4))
        self._thawing.append(_Thaw(needed, ready, due))

    def _later(self, needed: W, now: float) -> None:
        due = now + self._terms.poll
        self._thawing.append(_Thaw(needed, due, due))


@dataclass(frozen=True, slots=True)
class _Object:
    """An object of which all is to be read: it is its own row."""

    id: int
    name: str
    size: int

    @property
    def row(self) -> _Object:
        """Itself."""
        return self

    @property
    def read(self) -> int:
        """All of it."""
        return self.size


def read_all(
    storage: Storage,
    terms: Terms,
    objects: Iterable[Stored],
    read: Callable[[str], None],
    observer: Observer,
    *,
    wait: bool = False,
    clock: Clock | None = None,
) -> None:
    """Call `read` with the name of each object when it can be read; what is cold is asked for.

    For a reader without a catalogue: what was asked for is known from the storage alone, and
    where that tells nothing, by reading. Raises ColdError at the end where some cannot be read
    yet: the same call goes on later.
    """
    thawing = Thawing[_Object](Memory(), storage, terms, observer, wait=wait, clock=clock)
    thawing.add(_Object(row, stored.name, stored.size or 0) for row, stored in enumerate(objects))
    thawing.each(lambda found: read(found.name))
    count, _, due = thawing.waiting()
    if count:
        told = count_text(count, "object is", "objects are")
        raise ColdError(f"{told} thawing{when(due)}: run it again then")


def when(due: float | None) -> str:
    """When to come back, in words."""
    return f", the first until about {datetime.fromtimestamp(due):%Y-%m-%d %H:%M}" if due else ""
