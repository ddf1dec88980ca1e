"""pyarchiver settings ARCHIVE [INI]"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from pyarchiver.cas.units import count_text
from pyarchiver.cmd.console import Console, with_console
from pyarchiver.cmd.files import ARCHIVE, INI

if TYPE_CHECKING:
    from pyarchiver.cas.catalogue import Catalogue


@click.command(
    "settings",
    epilog="\b\nExample:\n"
    "  pyarchiver settings photos.archive > photos.ini\n"
    "  pyarchiver settings photos.archive photos.ini",
)
@click.argument("archive", type=ARCHIVE)
@click.argument("ini", type=INI, required=False)
@with_console
def command(console: Console, archive: Path, ini: Path | None) -> int:
    """Print the settings of ARCHIVE as an ini file, or take over what is different in INI.

    All may change but suite and chunk size: prices, limits, what to leave out, where the source
    is now, and where the storage is, once its objects are there. Passwords are not printed. The
    next resume sends the settings along, so that recover gives them back.
    """
    from pyarchiver.cas.catalogue import Catalogue

    with Catalogue.open(archive, write=ini is not None) as catalogue:
        if ini is None:
            return _show(console, catalogue)
        from pyarchiver.cas.amend import amend

        changes = amend(catalogue, ini, console)
    done = f"{count_text(len(changes), 'setting')} changed"
    return console.result(
        {"archive": str(archive), "changes": changes},
        *(f"{name}: {_line(was)} -> {_line(now)}" for name, (was, now) in changes.items()),
        f"{archive}: {done if changes else f'its settings are those in {ini} already'}",
    )


def _line(value: str) -> str:
    return value.replace("\n", ", ") or "(empty)"


def _show(console: Console, catalogue: Catalogue) -> int:
    from pyarchiver.cas.ini import ini_text
    from pyarchiver.cas.settings import settings_of, without_credentials

    settings = settings_of(catalogue)
    fields = {"archive": str(catalogue.path), "settings": without_credentials(settings.values())}
    return console.result(fields, ini_text(settings).rstrip(), asked=True)
