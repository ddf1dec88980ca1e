"""pyarchiver init INI"""

from __future__ import annotations

import os
from pathlib import Path

import click

from pyarchiver.cmd.console import Console, with_console
from pyarchiver.cmd.files import INI
from pyarchiver.formats.errors import SettingsError


@click.command(
    "init",
    epilog="\b\nExample:\n  pyarchiver init photos.ini --name photos --source ~/Photos"
    " --storage file:///mnt/cold",
)
@click.argument("ini", type=INI)
@click.option("--name", metavar="N", help="What the archive is called.")
@click.option("--source", metavar="DIR", help="The folder to archive.")
@click.option("--storage", metavar="URL", help="Where the packs go, such as file:///mnt/cold.")
@click.option("--profile", metavar="NAME", help="The kind of storage, with all its figures.")
@click.option("--force", is_flag=True, help="Overwrite INI if it is there.")
@with_console
def command(
    console: Console, ini: Path, name: str | None, source: str | None, storage: str | None,
    profile: str | None, force: bool,
) -> int:  # fmt: skip
    """Write an ini file that explains every setting.

    What is not given here stands in it as CHANGE-ME, which `start` refuses.
    """
    from pyarchiver.cas.ini import template
    from pyarchiver.cas.settings import PLACEHOLDER

    text = template(name, source, storage, profile)
    flags = os.O_WRONLY | os.O_CREAT | (os.O_TRUNC if force else os.O_EXCL)
    try:
        with os.fdopen(os.open(ini, flags, 0o600), "w", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise SettingsError(f"{ini} is already there: --force overwrites it") from None
    except OSError as error:
        raise SettingsError(f"cannot write {ini}: {error.strerror}") from None
    todo = "fill in what says CHANGE-ME, then: " if PLACEHOLDER in text else "next: "
    return console.result({"ini": str(ini)}, f"wrote {ini}", f"{todo}pyarchiver start {ini}")
