"""The kit: what gives the files back without this program. A decoder, the format, a page to print.

One is written to a folder, for a drawer; one without the recovery code, and without names that the
storage must not learn, lies beside the packs in plain.
"""

from __future__ import annotations

import io
import os
import zipfile
from html import escape
from importlib import resources
from pathlib import Path
from string import Template

from blake3 import blake3

from pyarchiver.cas.catalogue import Catalogue
from pyarchiver.cas.courier import Courier
from pyarchiver.cas.durable import sync_folder
from pyarchiver.cas.objectfile import write_plain
from pyarchiver.cas.progress import show
from pyarchiver.cas.rows import STAGED, NewObject
from pyarchiver.formats.errors import DestinationError, SettingsError
from pyarchiver.formats.header import Kind
from pyarchiver.formats.keys import ID_SIZE
from pyarchiver.formats.names import object_name, tag_of

PAGE = "READ-ME.html"
_FILES = ("rescue.py", "FORMAT.md")
_GROUPS = 8


def write_kit(catalogue: Catalogue, folder: Path, code: str, *, overwrite: bool) -> list[Path]:
    """Write the kit into `folder`, made if need be; returns its files.

    `code`: the recovery code as printed, empty for a blank to be written in by hand; so nobody else
    may read the page. Raises SettingsError where a file is there already, DestinationError where
    none can be written.
    """
    files = _kit(_own_page(catalogue, code))
    written = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            path = folder / name
            if overwrite:
                path.unlink(missing_ok=True)
            mode = 0o600 if name == PAGE else 0o644
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            written.append(path)
        sync_folder(folder)
    except FileExistsError as error:
        raise SettingsError(f"{error.filename} is already there: --force overwrites it") from None
    except OSError as error:
        raise DestinationError(f"kit {folder}: {error.strerror}") from None
    return written


def send_kit(catalogue: Catalogue, courier: Courier, run: int) -> None:
    """Stage the kit for the storage and send it, unless one was; as with every object."""
    if catalogue.objects(Kind.KIT):
        return
    archive_id = catalogue.keys.archive_id
    data = _zip(_kit(_storage_page(tag_of(archive_id))))
    object_id = os.urandom(ID_SIZE)
    name = object_name(archive_id, Kind.KIT, 0, object_id)
    write_plain(courier.spool, name, data)
    digest = blake3(data).digest()
    with catalogue.transaction():
        new = NewObject(object_id, name, Kind.KIT, 0, run, len(data), digest, b"")
        row = catalogue.add_object(new, STAGED)
    courier.send(row, name, len(data))


def _kit(page: str) -> dict[str, bytes]:
    folder = resources.files(__package__).joinpath("kit_files")
    files = {name: folder.joinpath(name).read_bytes() for name in _FILES}
    return {PAGE: page.encode(), **files}


def _zip(files: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in files.items():
            # The storage learns nothing of when and where: a fixed time, no user.
            file.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)
    return packed.getvalue()


def _own_page(catalogue: Catalogue, code: str) -> str:
    tag = tag_of(catalogue.keys.archive_id)
    facts = {
        "Name": catalogue.name,
        "Objects": f"{tag}-... in {catalogue.url}",
        "Storage": catalogue.settings.get("profile", ""),
        "Made of": show(os.fsencode(catalogue.settings["source"])),
    }
    keep = "Keep it on paper, apart from the computer."
    return _page(catalogue.name, tag, keep, facts, f"from {catalogue.url}", _code(code))


def _storage_page(tag: str) -> str:
    keep = (
        "It lies beside the objects, in plain, and whoever runs the storage could have altered it: "
        "if there is a kit from elsewhere, use that one."
    )
    facts = {"Objects": f"{tag}-..., beside this kit"}
    note = "<p>Whoever made the archive has it, or the password. Nobody reads it without.</p>"
    return _page(tag, tag, keep, facts, "from where this kit was", note)


def _page(title: str, tag: str, keep: str, facts: dict[str, str], where: str, code: str) -> str:
    template = resources.files(__package__).joinpath("kit_files", "page.html")
    return Template(template.read_text("utf-8")).substitute(
        title=escape(title),
        tag=tag,
        keep=keep,
        facts="\n".join(
            f"<dt>{name}</dt><dd>{escape(text)}</dd>" for name, text in facts.items() if text
        ),
        code=code,
        **{"from": escape(where)},
    )


def _code(code: str) -> str:
    """The code as text and as a QR code, or lines to write it on."""
    advice = "<p>It opens everything, like the password, which is not on this page.</p>"
    if not code:
        blanks = "<span></span>" * _GROUPS
        return (
            f'{advice}<div class="card"><div class="code blank">{blanks}</div></div>'
            "<p>Write it in by hand: 8 groups of 4 letters and digits.</p>"
        )
    import segno  # 30 ms, needed here alone

    image = segno.make(code, error="m", micro=False).svg_inline(border=2, omitsize=True)
    groups = code.split("-")
    half = len(groups) // 2
    lines = "<br>".join(" - ".join(part) for part in (groups[:half], groups[half:]))
    return f'{advice}<div class="card">{image}<div class="code">{lines}</div></div>'
