"""Takes stock of a folder of objects: which of its files hold what, of which archive.

Downloaded files may have been renamed, doubled, damaged or mixed with others, so that each is
opened and counts by what its header says.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from pyarchiver.cas.folder import ObjectFolder
from pyarchiver.cas.objects import OpenObject, open_object, read_about
from pyarchiver.cas.progress import Observer
from pyarchiver.cas.storage import reason
from pyarchiver.cas.units import count_text
from pyarchiver.cas.unlock import Keyring, nothing_opens
from pyarchiver.formats.errors import (
    AccessError,
    ForeignError,
    FormatError,
    StorageError,
    UnsupportedError,
)
from pyarchiver.formats.header import Header, Kind
from pyarchiver.formats.keys import ReadKeys
from pyarchiver.formats.names import object_name, parse_name, tag_of
from pyarchiver.formats.records import About


@dataclass(frozen=True, slots=True)
class Found:
    """An object in a file of the folder. `name` is the one that its header gives it."""

    file: str
    name: str
    header: Header
    about: About | None

    @property
    def number(self) -> int:
        """The manifest number."""
        return self.about.number if self.about else 0


@dataclass
class Stock:
    """The objects of one archive that a folder holds, by name."""

    keys: ReadKeys
    packs: dict[str, Found] = field(default_factory=dict)
    log: dict[str, Found] = field(default_factory=dict)

    @property
    def tag(self) -> str:
        """What the names of the archive's objects begin with."""
        return tag_of(self.keys.archive_id)

    def newest(self) -> Found:
        """The object that was written last: it has the slots that count."""
        return max((self.log or self.packs).values(), key=_written)


def take_stock(
    folder: ObjectFolder, files: Iterable[str], keyring: Keyring, observer: Observer
) -> Stock:
    """Open files of a folder: the objects of the archive that the secret opens.

    Raises PasswordError or CodeError where there are objects and none opens, AccessError where not
    all could be tried.
    """
    found: dict[bytes, Stock] = {}
    locked = _open_all(folder, files, keyring, found, observer)
    if keyring.try_rest() or found:
        # A slot that opens serves every object of its archive, those that were tried before too.
        locked = _open_all(folder, locked, keyring, found, observer)
    for file, error in locked.items():
        if error:
            observer.problem(f"{file}: cannot be opened: {reason(file, error)}")
        else:
            observer.notice(f"{file}: of another archive or under another password; skipped")
    if not found:
        if locked:
            raise nothing_opens(keyring.secret, locked)
        raise StorageError("no object of pyarchiver is there")
    found = {key: stock for key, stock in found.items() if stock.packs or stock.log}
    if not found:
        raise StorageError("no object that can be used is there")
    best = max(found.values(), key=lambda stock: len(stock.packs) + len(stock.log))
    for stock in found.values():
        if stock is not best:
            objects = count_text(len(stock.packs) + len(stock.log), "object")
            observer.problem(
                f"{objects} of another archive with this password: skipped; this is {best.tag}: "
                f"move what is named {stock.tag}-... into a folder of its own"
            )
    return best


def _open_all(
    folder: ObjectFolder,
    files: Iterable[str],
    keyring: Keyring,
    found: dict[bytes, Stock],
    observer: Observer,
) -> dict[str, AccessError | None]:
    """Open files and sort what is in them into `found`, by archive.

    Returns those locked, with the error where that is not for want of the right secret.
    """
    locked: dict[str, AccessError | None] = {}
    for file in files:
        if (name := parse_name(file)) and name.kind == Kind.KIT:
            continue
        try:
            opened = open_object(folder.raw, file, keyring.keys)
        except ForeignError:
            if name:
                observer.problem(f"{file}: nothing of an object is left in it")
            else:
                observer.notice(f"{file}: not an object of pyarchiver; skipped")
            continue
        except UnsupportedError as error:
            observer.problem(f"{file}: {error}")
            continue
        except AccessError as error:
            locked[file] = error
            continue
        except (FormatError, StorageError) as error:
            observer.problem(f"{file}: cannot be opened: {reason(file, error)}")
            continue
        if opened is None:
            locked[file] = None
            continue
        for notice in opened.notices:
            observer.notice(f"{file}: {notice}")
        stock = found.setdefault(opened.header.archive_id, Stock(opened.keys))
        _sort_in(folder, file, opened, stock, observer)
    return locked


def _sort_in(
    folder: ObjectFolder, file: str, opened: OpenObject, stock: Stock, observer: Observer
) -> None:
    """Put an opened object into its place; of two copies the one that is whole."""
    header = opened.header
    if header.kind not in (Kind.PACK, Kind.MANIFEST, Kind.CHECKPOINT):
        observer.notice(f"{file}: an object of a later version; skipped")
        return
    about = read_about(opened.opener)
    if header.kind != Kind.PACK and about is None:
        observer.problem(f"{file}: damaged at its beginning; skipped")
        return
    number = about.number if about else 0
    name = object_name(header.archive_id, Kind(header.kind), number, header.object_id)
    place = stock.packs if header.kind == Kind.PACK else stock.log
    found = Found(file, name, header, about)
    twin = place.setdefault(name, found)
    if twin is not found:
        observer.notice(f"{file}: the same object as {twin.file}")
        other = open_object(folder.raw, twin.file, lambda _: stock.keys)
        assert other is not None
        if _soundness(opened) > _soundness(other):
            place[name] = found


def _soundness(opened: OpenObject) -> tuple[int, bool]:
    """Which copy is the better one: its segments, and both of its headers."""
    return opened.opener.sound_segments(), not opened.notices


def _written(found: Found) -> tuple[int, int]:
    about = found.about
    return (about.number, about.written) if about else (0, 0)
