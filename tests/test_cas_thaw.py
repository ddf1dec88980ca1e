"""Restores from a cold storage, on a simulated clock: asked once, in waves, however interrupted."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from helpers_cas import PASSWORD, World, assert_same, look, new_world, noise, tuned
from helpers_cold import HOUR, ColdFolder, FakeClock
from pyarchiver.cas.catalogue import Catalogue
from pyarchiver.cas.plan import Needed
from pyarchiver.cas.planner import Request, RestoreResult
from pyarchiver.cas.profiles import WINDOW_SHARE, Terms, Way
from pyarchiver.cas.progress import Quiet
from pyarchiver.cas.restore import Approve, restore
from pyarchiver.cas.storage import Heat
from pyarchiver.cas.thaw import Thawing, read_all
from pyarchiver.cas.unlock import unlock
from pyarchiver.formats.errors import ColdError, CostError
from pyarchiver.formats.header import Kind

PACK = 1 << 20
WAYS = {Way.REQUEST: False, Way.READING: True}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """Ten packs; files that lie in one pack, in several, and one that lies in all."""
    with tuned(pack_size=PACK, block_size=1 << 18):
        world = new_world(tmp_path / "world")
        for number in range(30):
            world.write(f"photos/{number:02}.jpg", noise(number, 250_000))
            if number % 10 == 5:
                world.write(f"large{number}", noise(f"large {number}", 900_000))
        world.resume()
        yield world


class Cold:
    """An archive's cold storage, and restores from it."""

    def __init__(self, world: World, way: Way, **options: float) -> None:
        self.world = world
        self.clock = FakeClock()
        self.storage = ColdFolder(world.storage, self.clock, blind=WAYS[way], **options)
        self.terms = Terms(
            way,
            delay=self.storage.delay,
            longest=2 * self.storage.delay,
            window=self.storage.window,
            poll=HOUR / 4,
            rate=1e9,
        )
        self._packs = list(world.objects(Kind.PACK))

    def restore(
        self,
        into: str = "out",
        archive: Path | None = None,
        approve: Approve | None = None,
        **options: Any,
    ) -> RestoreResult:
        self.folder = self.world.root / into
        observer = self.world._observer()
        with Catalogue.open(archive or self.world.archive, write=False) as catalogue:
            keys = unlock(catalogue, PASSWORD)
            thawing = Thawing[Needed](
                catalogue, self.storage, self.terms, observer, clock=self.clock, **options
            )
            with closing(self.storage):
                return restore(
                    catalogue,
                    self.storage,
                    keys,
                    self.folder,
                    Request(),
                    observer,
                    thawing,
                    approve,
                )

    def packs(self) -> list[str]:
        return self._packs

    def check(self) -> None:
        assert not self.world.problems
        assert_same(look(self.folder), look(self.world.source))

    def asked_once(self) -> None:
        assert dict(self.storage.requests) == dict.fromkeys(self.packs(), 1)


@pytest.fixture(params=list(Way)[1:], ids=str)
def cold(world: World, request: pytest.FixtureRequest) -> Cold:
    return Cold(world, request.param)


def test_asks_then_goes_on(cold: Cold) -> None:
    first = cold.restore()
    assert first.restored == 0
    assert first.waiting == len(cold.packs()) >= 9
    assert first.waiting_size == sum(cold.world.objects(Kind.PACK).values())
    assert first.ready == cold.clock.now() + cold.storage.delay
    cold.clock.time += cold.storage.delay / 2
    assert cold.restore().waiting == first.waiting
    cold.clock.time += cold.storage.delay / 2 + 1
    last = cold.restore()
    assert (last.waiting, last.restored) == (0, 33)
    cold.check()
    cold.asked_once()


def test_waits_when_told_to(cold: Cold) -> None:
    result = cold.restore(wait=True)
    assert (result.waiting, result.restored) == (0, 33)
    assert cold.clock.slept >= cold.storage.delay
    cold.check()
    cold.asked_once()


def test_another_folder_pays_nothing_more(cold: Cold) -> None:
    cold.restore("one")
    cold.clock.time += cold.storage.delay + 1
    for into in ("two", "one"):
        assert cold.restore(into).waiting == 0
        cold.check()
    cold.asked_once()


def test_a_copy_of_the_archive_on_another_machine(cold: Cold) -> None:
    cold.restore()
    copy = cold.world.root / "copy.archive"
    shutil.copy(cold.world.archive, copy)
    cold.clock.time += cold.storage.delay + 1
    assert cold.restore("elsewhere", copy).waiting == 0
    cold.check()
    cold.asked_once()


def test_only_what_lapsed_is_asked_for_again(cold: Cold) -> None:
    """Half of it is fetched within the window; the rest is not."""
    cold.restore()
    cold.clock.time += cold.storage.delay + 1
    fetched = stop_after(cold, 4)
    cold.clock.time += 3 * cold.storage.delay + cold.storage.window
    for _ in range(3):
        cold.restore()
        cold.clock.time += cold.storage.delay + 1
    assert cold.restore().waiting == 0
    cold.check()
    assert {cold.storage.requests[name] for name in fetched} == {1}
    assert {cold.storage.requests[name] for name in cold.packs() if name not in fetched} == {2}


def stop_after(cold: Cold, count: int) -> list[str]:
    """A restore that is interrupted after so many packs; returns which they were."""
    names: list[str] = []

    class Killed(BaseException):
        pass

    def fetched(thawing: Thawing[Needed], needed: Needed) -> None:
        names.append(needed.row.name)
        if len(names) == count:
            raise Killed

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Thawing, "fetched", fetched)
        cold.restore()
    return names


def test_killed_after_each_pack(cold: Cold) -> None:
    """What was written is not read again, and no thaw is asked for twice."""
    cold.restore()
    cold.clock.time += cold.storage.delay + 1
    seen: set[str] = set()
    for _ in cold.packs():
        (name,) = stop_after(cold, 1)
        assert name not in seen
        seen.add(name)
    assert seen == set(cold.packs())
    assert cold.restore().objects == 0
    cold.check()
    cold.asked_once()
    assert not list(cold.folder.glob(".pyarchiver*"))


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(
    ("owner", "name"),
    [(ColdFolder, "look"), (Catalogue, "record_thaw"), (ColdFolder, "thaw")],
    ids=["look", "record", "thaw"],
)
def test_killed_while_asking(cold: Cold, owner: Any, name: str, when: str) -> None:
    """Around the intent, the request and its record: the next run asks for what is missing."""

    class Killed(BaseException):
        pass

    original = getattr(owner, name)
    copy = shutil.copy(cold.world.archive, cold.world.root / "as it was")
    left = 1

    def dies(*arguments: Any) -> Any:
        nonlocal left
        left -= 1
        if not left and when == "before":
            raise Killed
        result = original(*arguments)
        if not left:
            raise Killed
        return result

    number = 1
    while True:
        shutil.copy(copy, cold.world.archive)
        cold = Cold(cold.world, cold.terms.way)
        left = number
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(owner, name, dies)
            with suppress(Killed):
                cold.restore()
        assert cold.restore().waiting == len(cold.packs())
        cold.asked_once()
        if left > 0:
            break
        number += 1 if "PYARCHIVER_CRASH" in os.environ else 4
    assert number > len(cold.packs())
    cold.clock.time += cold.storage.delay + 1
    assert cold.restore().waiting == 0
    cold.check()


def test_waves_fit_the_window(cold: Cold) -> None:
    """A slow link: never more is outstanding than it can fetch, and nothing lapses."""
    cold.storage.window = 600.0
    rate = 4 * PACK / (600.0 * WINDOW_SHARE)
    cold.storage.rate = rate
    cold.terms = Terms(
        cold.terms.way, delay=cold.storage.delay, longest=2 * cold.storage.delay, window=600.0,
        poll=60.0, rate=rate,
    )  # fmt: skip
    result = cold.restore(wait=True)
    assert (result.waiting, result.restored) == (0, 33)
    assert PACK < cold.storage.most_outstanding <= 4 * PACK + 100_000
    assert cold.storage.lapsed == 0
    cold.check()
    cold.asked_once()


def test_the_measured_rate_bounds_the_next_wave(cold: Cold) -> None:
    with Catalogue.open(cold.world.archive, write=False) as catalogue:
        catalogue.set_download_rate(3 * PACK / (cold.storage.window * WINDOW_SHARE))
    result = cold.restore()
    assert 1 <= len(cold.storage.requests) <= 3
    assert result.waiting == len(cold.packs())


def test_asked_while_the_clock_was_ahead(cold: Cold) -> None:
    """Thirty years later by a clock that was wrong; then it is right, and the thaw is done."""
    now = cold.clock.time
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cold.clock, "now", lambda: now + 30 * 365 * 24 * HOUR)
        assert cold.restore().waiting == len(cold.packs())
    cold.storage.asked = dict.fromkeys(cold.packs(), now)
    cold.clock.time += cold.storage.delay + 1
    result = cold.restore()
    assert (result.waiting, result.restored) == (0, 33)
    cold.check()
    cold.asked_once()


def test_what_is_warm_is_read_at_once(world: World) -> None:
    cold = Cold(world, Way.REQUEST)
    cold.storage.warm.update(cold.packs()[:4])
    result = cold.restore()
    assert result.objects == 4
    assert result.waiting == len(cold.packs()) - 4
    assert not set(cold.storage.requests) & cold.storage.warm


def test_what_others_thawed_is_not_asked_for(cold: Cold) -> None:
    for name in cold.packs():
        cold.storage.thaw(name, 1, "")
    if not cold.storage.blind:
        assert cold.restore().waiting == len(cold.packs())
    cold.clock.time += cold.storage.delay + 1
    assert cold.restore().waiting == 0
    cold.check()
    cold.asked_once()


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_cold_again_in_the_middle_of_an_object(tmp_path: Path, way: Way) -> None:
    """The blocks written before are kept and not read again; the object is asked for again."""
    with tuned(pack_size=8 * PACK, block_size=1 << 18):
        world = new_world(tmp_path / "world")
        for number in range(40):
            world.write(f"{number:02}.jpg", noise(number, 150_000))
        world.resume()
    cold = Cold(world, way)
    (pack,) = cold.packs()
    cold.restore()
    cold.clock.time += cold.storage.delay + 1
    get_into, reads = ColdFolder.get_into, [0]

    def closes(storage: ColdFolder, name: str, start: int, into: memoryview) -> int:
        reads[0] += 1
        if reads[0] == 4:
            storage.asked[name] = storage.clock.now() - storage.delay - storage.window - 1
        return get_into(storage, name, start, into)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ColdFolder, "get_into", closes)
        result = cold.restore()
    assert result.waiting == 1
    assert 0 < result.restored < 40
    for _ in range(3):
        cold.clock.time += 3 * cold.storage.delay + 1
        result = cold.restore()
    assert result.waiting == 0
    cold.check()
    assert cold.storage.requests[pack] == 2


def test_a_missing_object_does_not_stop_the_others(world: World) -> None:
    cold = Cold(world, Way.REQUEST)
    lost = cold.packs()[3]
    (world.storage / lost).unlink()
    result = cold.restore()
    assert result.waiting == len(cold.packs()) - 1
    assert lost in " ".join(world.problems)
    cold.clock.time += cold.storage.delay + 1
    result = cold.restore()
    assert result.waiting == 0
    assert result.failed >= 1
    assert all(f"missing {lost}" in problem for problem in world.problems)


def test_refused_before_anything_is_asked_for(cold: Cold) -> None:
    def too_much(needed: list[Needed]) -> None:
        assert len(needed) == len(cold.packs())
        raise CostError("too much")

    with pytest.raises(CostError):
        cold.restore(approve=too_much)
    assert not cold.storage.requests


def test_without_an_engine_a_cold_object_is_a_failure(world: World) -> None:
    cold = Cold(world, Way.REQUEST)
    with Catalogue.open(world.archive, write=False) as catalogue:
        keys = unlock(catalogue, PASSWORD)
        out = world.root / "out"
        observer = world._observer()
        with closing(cold.storage):
            result = restore(catalogue, cold.storage, keys, out, Request(), observer)
    assert result.failed == 33
    assert "is cold" in world.problems[0]
    assert cold.storage.heat(cold.packs()[0]) == Heat.COLD
    with pytest.raises(ColdError):
        cold.storage.get_into(cold.packs()[0], 0, memoryview(bytearray(1)))


def test_without_a_catalogue(cold: Cold) -> None:
    """Objects of a listing, by calls that know nothing of each other: asked for once."""
    read: list[str] = []

    def fetch(name: str) -> None:
        cold.storage.get_into(name, 0, memoryview(bytearray(10)))
        read.append(name)

    def attempt() -> None:
        objects = [stored for stored in cold.storage.list() if stored.name in cold.packs()]
        read_all(cold.storage, cold.terms, objects, fetch, Quiet(), clock=cold.clock)

    with closing(cold.storage):
        for _ in range(2):
            with pytest.raises(
                ColdError, match=r"\d+ objects are thawing, the first until about 20"
            ):
                attempt()
        assert not read
        cold.clock.time += cold.storage.delay + 1
        attempt()
    assert sorted(read) == sorted(cold.packs())
    cold.asked_once()
