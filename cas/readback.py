"""Reading back from the storage of an archive, which may be cold and may cost something."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from pyarchiver.cas.archiver import spool_folder
from pyarchiver.cas.catalogue import Catalogue
from pyarchiver.cas.clock import SystemClock
from pyarchiver.cas.cost import Estimate, download_rate, estimate, refuse_above
from pyarchiver.cas.local import folder_of
from pyarchiver.cas.plan import Needed
from pyarchiver.cas.planner import PlanResult, Request, RestoreResult, plan
from pyarchiver.cas.profiles import Way
from pyarchiver.cas.progress import Observer
from pyarchiver.cas.restore import restore
from pyarchiver.cas.settings import Settings, settings_of
from pyarchiver.cas.storage import Storage, open_storage
from pyarchiver.cas.thaw import Thawing
from pyarchiver.formats.errors import SettingsError
from pyarchiver.formats.keys import ReadKeys


@dataclass(frozen=True, slots=True)
class ThawResult:
    """What a thaw found and asked for: objects and bytes.

    `readable` now; `asked` of them by this call; `under_way`, also what was asked for before;
    `later`: what is asked for when the others are fetched. `ready`: when about the first of them
    can be read, in seconds since 1970.
    """

    objects: int
    size: int
    readable: int
    asked: int
    under_way: int
    later: int
    ready: float | None


def refuse_among_objects(destination: Path, *folders: Path | None) -> None:
    """SettingsError where the destination is a folder of objects, or lies in one."""
    for folder in folders:
        if folder and destination.resolve().is_relative_to(folder.resolve()):
            raise SettingsError(
                f"destination {destination} lies in {folder}, among the objects: name another"
            )


def plan_back(
    catalogue: Catalogue, request: Request, observer: Observer
) -> tuple[PlanResult, Estimate]:
    """What a restore into an empty folder would read, take and cost; asks the storage nothing."""
    planned = plan(catalogue, request, observer)
    now = SystemClock().now()
    return planned, estimate(catalogue, settings_of(catalogue), planned.needed, now)


def restore_back(
    catalogue: Catalogue,
    keys: ReadKeys,
    destination: Path,
    request: Request,
    observer: Observer,
    *,
    wait: bool = False,
    max_cost: float | None = None,
) -> RestoreResult:
    """Restore from the archive's storage. What is cold is asked for, and counted as waiting; with
    `wait` it stays until all is here. See `restore` for the errors.

    Raises CostError where it would cost more than `max_cost`, or nobody knows; nothing is asked
    for then. SettingsError where `destination` lies in the storage's folder or in the spool.
    """
    settings = settings_of(catalogue)
    spool = spool_folder(catalogue, settings)
    refuse_among_objects(destination, folder_of(settings.url), spool)
    with closing(open_storage(settings, write=False, tell=observer.notice)) as storage:
        storage.check()
        thawing = _thawing(catalogue, settings, storage, observer, wait)

        def approve(needed: list[Needed]) -> None:
            _approve(catalogue, settings, needed, max_cost)

        return restore(catalogue, storage, keys, destination, request, observer, thawing, approve)


def thaw(
    catalogue: Catalogue, request: Request, observer: Observer, max_cost: float | None = None
) -> ThawResult:
    """Ask for what a restore would need, as much of it as can be fetched while it is readable."""
    settings = settings_of(catalogue)
    needed = plan(catalogue, request, observer).needed
    _approve(catalogue, settings, needed, max_cost)
    size = sum(one.row.size for one in needed)
    with closing(open_storage(settings, write=False, tell=observer.notice)) as storage:
        storage.check()
        thawing = _thawing(catalogue, settings, storage, observer, wait=False)
        if thawing is None:
            return ThawResult(len(needed), size, len(needed), 0, 0, 0, None)
        thawing.add(needed)
        thawing.ask()
    waiting, _, ready = thawing.waiting()
    return ThawResult(
        objects=len(needed),
        size=size,
        readable=len(needed) - waiting,
        asked=thawing.asked,
        under_way=waiting - thawing.pending,
        later=thawing.pending,
        ready=ready,
    )


def _approve(
    catalogue: Catalogue, settings: Settings, needed: list[Needed], max_cost: float | None
) -> None:
    if max_cost is not None:
        now = SystemClock().now()
        refuse_above(max_cost, estimate(catalogue, settings, needed, now))


def _thawing(
    catalogue: Catalogue, settings: Settings, storage: Storage, observer: Observer, wait: bool
) -> Thawing[Needed] | None:
    """The engine; None where all is always readable."""
    terms = settings.profile.terms
    if terms.way == Way.NONE:
        return None
    terms = replace(terms, rate=download_rate(catalogue, settings))
    return Thawing[Needed](catalogue, storage, terms, observer, wait=wait)
