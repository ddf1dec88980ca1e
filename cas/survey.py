"""Surveys a storage by one listing, before a run adds to it: is it the archive's, and does the
catalogue know all of the archive that is there?

A name is in the catalogue before its first byte leaves, so an object that it does not know was sent
by another copy of the .archive, a newer one: whoever goes on with the old one forks the log. And
where nothing is there of what was stored, it is another folder: that under a disk that is not
mounted.
"""

from __future__ import annotations

from pyarchiver.cas.catalogue import Catalogue
from pyarchiver.cas.progress import Observer
from pyarchiver.cas.rows import STORED
from pyarchiver.cas.storage import Storage
from pyarchiver.cas.units import count_text
from pyarchiver.formats.errors import CatalogueError, StorageError
from pyarchiver.formats.header import Kind
from pyarchiver.formats.names import parse_name, tag_of


def survey(catalogue: Catalogue, storage: Storage, observer: Observer) -> None:
    """Raise CatalogueError for an old copy, StorageError where all that was stored is missing.

    That some is missing is a notice; so is that the storage does not say.
    """
    if not catalogue.has_objects():
        return
    try:
        there, unknown = _listed(catalogue, storage)
    except StorageError as error:
        # A key that may only write is a good idea.
        observer.notice(
            f"the storage does not say what it holds ({error}): not checked whether this .archive "
            "is the newest copy"
        )
        return
    if unknown:
        raise CatalogueError(old_copy(catalogue, unknown))
    stored = catalogue.count_stored()
    refuse_none(stored, there, catalogue.url)
    if there < stored:
        observer.notice(
            f"{stored - there:,} of {count_text(stored, 'object')} are not in the storage: "
            f"pyarchiver verify {catalogue.path} names them"
        )


def refuse_none(stored: int, there: int, url: str) -> None:
    """Raise StorageError where nothing is there of what was stored: the disk may be elsewhere."""
    if stored and not there:
        raise StorageError(
            f"none of {count_text(stored, 'object')} is in the storage {url}: is its disk mounted?"
        )


def _listed(catalogue: Catalogue, storage: Storage) -> tuple[int, list[str]]:
    """(stored objects that are there, sorted names of others that the catalogue never had)."""
    tag, there, unknown = tag_of(catalogue.keys.archive_id), 0, []
    for found in storage.list():
        if not found.name.startswith(tag):
            continue
        state, name = catalogue.state_of(found.name), None
        if state is None:
            name = parse_name(found.name)
        # A kit is of no run, so that one too many says nothing of the log.
        if name and name.kind != Kind.KIT:
            unknown.append(found.name)
        there += state == STORED
    return there, sorted(unknown)


def old_copy(catalogue: Catalogue, unknown: list[str]) -> str:
    """What to say of objects that the catalogue does not know, and what to do."""
    numbers = [name.number for name in map(parse_name, unknown) if name]
    newest = max(numbers, default=0)
    told = f"its log reaches manifest {catalogue.head.number}"
    if newest:
        told += f", the storage has manifest {newest}"
    return (
        f"{catalogue.path} is an old copy: it does not know "
        f"{count_text(len(unknown), 'object')} of its archive in the storage, such as {unknown[0]} "
        f"({told}). use the newest copy, or make one: "
        f"pyarchiver recover {catalogue.url} NEW.archive"
    )
