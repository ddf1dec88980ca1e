"""Changes the settings of an archive: prices change, disks are replaced, folders move.

Two things must not happen unseen: that what was sent lies in one storage and what comes in another,
and that another folder passes for the source. So a new storage is listed, and a new source looked
at, before anything counts.
"""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path

from pyarchiver.cas.archiver import spool_folder
from pyarchiver.cas.catalogue import Catalogue
from pyarchiver.cas.create import checked
from pyarchiver.cas.ini import KEPT, line_of, read_ini
from pyarchiver.cas.objectfile import spool_file
from pyarchiver.cas.progress import Observer, show
from pyarchiver.cas.settings import CREDENTIALS, Settings, parse, settings_of, without_credentials
from pyarchiver.cas.storage import open_storage
from pyarchiver.cas.units import count_text
from pyarchiver.cas.verify import verify
from pyarchiver.formats.entry import EntryKind
from pyarchiver.formats.errors import SettingsError, SourceError

# Why these stay as they are from the first byte on.
FIXED = {
    "suite": "an archive has one, so that what opens one of its objects opens all",
    "chunk size": "files would be cut anew, and all of them sent again",
}
_HIDDEN = ("(not shown)", "(not shown)")

Changes = dict[str, tuple[str, str]]
"""(before, after) of each setting that is another, by the name that it has in the .archive."""


def amend(catalogue: Catalogue, ini: Path, observer: Observer) -> Changes:
    """Take over what an ini file says otherwise than the archive; nothing of it where one is wrong.

    Objects that are not (yet) in a new storage are problems of the observer. Raises SettingsError
    for what must stay, SourceError for a new source that is not there, StorageError for a new
    storage that has no object of the archive.
    """
    catalogue.refuse_deleted()
    before = _values(catalogue)
    new = _with_kept(read_ini(ini), before)
    changes = _differences(before, new)
    for name in FIXED.keys() & changes.keys():
        was, wanted = changes[name]
        raise SettingsError(
            f"{ini}{line_of(ini, name)}: setting {name!r} stays {was} (it says {wanted}): "
            f"{FIXED[name]}; nothing was changed"
        )
    new = checked(new, look_at_source="source" in changes)
    changes = _differences(before, new)
    if "source" in changes:
        _look_at_source(catalogue, new)
    if "url" in changes:
        _look_at_storage(catalogue, new, observer)
    if catalogue.staged() and changes.keys() & {"url", "spool"}:
        _look_at_spool(catalogue, new)
    if changes:
        catalogue.amend(new.values(), moved="url" in changes, sealed=_is_sealed(changes))
    return {name: _HIDDEN if name in CREDENTIALS else both for name, both in changes.items()}


def _values(catalogue: Catalogue) -> dict[str, str]:
    """All settings as they are; those that cannot be used (any more) can still be replaced."""
    try:
        return settings_of(catalogue).values()
    except SettingsError:
        return catalogue.settings


def _with_kept(new: Settings, before: dict[str, str]) -> Settings:
    """Settings in which what is not shown is what it was."""
    values = new.values()
    kept = {name: before.get(name, "") for name in CREDENTIALS if values.get(name) == KEPT}
    if new.source.name == KEPT:
        kept["source"] = before["source"]
    return parse({**values, **kept}, Path("/"))


def _differences(before: dict[str, str], new: Settings) -> Changes:
    after = new.values()
    return {
        name: (before.get(name, ""), after.get(name, ""))
        for name in [*after, *(name for name in before if name not in after)]
        if before.get(name, "") != after.get(name, "")
    }


def _is_sealed(changes: Changes) -> bool:
    """Whether any of it stands in manifests."""
    return bool(without_credentials({name: after for name, (_, after) in changes.items()}))


def _look_at_source(catalogue: Catalogue, new: Settings) -> None:
    # The folder itself has no name.
    known = {
        name for name, row in catalogue.folder(b"").items() if name and row.kind != EntryKind.GONE
    }
    if known and known.isdisjoint(os.fsencode(path.name) for path in new.source.iterdir()):
        raise SourceError(
            f"source {new.source} has nothing of what is archived, such as "
            f"{show(min(known))}: is its disk mounted, and is it the right folder?"
        )


def _look_at_storage(catalogue: Catalogue, new: Settings, observer: Observer) -> None:
    with closing(open_storage(new, write=False, tell=observer.notice)) as storage:
        storage.check()
        if catalogue.has_objects():
            verify(catalogue, storage, observer, url=new.url)


def _look_at_spool(catalogue: Catalogue, new: Settings) -> None:
    """What waits to be sent must be where the next run looks for it."""
    folder = open_storage(new).spool or spool_folder(catalogue, new)
    lost = [row for row in catalogue.staged() if not spool_file(folder, row.name).exists()]
    if lost:
        raise SettingsError(
            f"ready to be sent and not yet there: {count_text(len(lost), 'object')}, such as "
            f"{spool_file(folder, lost[0].name)}: resume with the settings as they were, or move "
            "the files there"
        )
