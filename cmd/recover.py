"""pyarchiver recover LOCATION NEW.archive"""

from __future__ import annotations

import re
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pyarchiver.cas.units import count_text
from pyarchiver.cmd.console import Console, size_text, with_console
from pyarchiver.cmd.files import AnyPath
from pyarchiver.cmd.secrets import read_secret, reading_options

if TYPE_CHECKING:
    from pyarchiver.cas.recover import RecoverResult


def _expected(
    ctx: click.Context, param: click.Parameter, value: str | None
) -> tuple[int, bytes] | None:
    """Snapshot and head, as a run prints them, or in words."""
    if value is None:
        return None
    match = re.fullmatch(r"(?:snapshot )?(\d{1,9})(?::|, head )([0-9a-fA-F]{64})", value.strip())
    if match is None:
        raise click.BadParameter(f"{value!r} is no SNAPSHOT:HEAD as runs print it", ctx, param)
    return int(match[1]), bytes.fromhex(match[2])


@click.command(
    "recover",
    epilog="\b\nExamples:\n"
    "  pyarchiver recover file:///mnt/cold photos.archive\n"
    "  pyarchiver recover /mnt/cold photos.archive --recovery-code\n"
    "  pyarchiver recover s3://bucket/photos photos.archive --config photos.ini",
)
@click.argument("location")
@click.argument("archive", type=AnyPath(dir_okay=False))
@click.option(
    "--expect", callback=_expected, metavar="N:H", help="Fail unless snapshot N, head H is there."
)
@click.option(
    "--config",
    type=AnyPath(dir_okay=False),
    metavar="INI",
    help="What it says of the storage counts: options, profile, logins.",
)
@click.option(
    "--packs",
    type=click.Choice(["none", "unlisted", "all"]),
    default="unlisted",
    show_default=True,
    help="Which packs to read: those in no manifest, none, or all.",
)
@click.option("--only", default="", metavar="TAG", help="Which archive, where there are several.")
@click.option("--wait", is_flag=True, help="Stay until what is cold can be read.")
@reading_options
@with_console
def command(
    console: Console, location: str, archive: Path, expect: tuple[int, bytes] | None,
    config: Path | None, packs: str, only: str, wait: bool, password_file: Path | None,
    recovery_code: bool,
) -> int:  # fmt: skip
    """Make a lost .archive anew from what the storage at LOCATION, a URL or a folder, holds.

    Reads the newest checkpoint, its manifest and those after it, and the packs that no manifest
    lists; with --expect all manifests, for a checkpoint proves nothing. Then resume and restore
    work as before. The next resume reads every file once, and sends only what is not there. Nothing
    is written to the storage. What is cold is asked for, with exit code 4: run it again, and it
    goes on.
    """
    from pyarchiver.cas.ini import located
    from pyarchiver.cas.recover import Wanted, recover
    from pyarchiver.cas.recover_packs import Packs
    from pyarchiver.cas.storage import open_storage
    from pyarchiver.cas.unlock import Keyring

    settings = located(location, archive, config)
    secret = read_secret(password_file, recovery_code)
    wanted = Wanted(expect, Packs(packs), only, wait)
    with closing(open_storage(settings, write=False, tell=console.notice)) as storage:
        result = recover(
            settings, storage, Keyring(secret), archive, wanted, console,
            from_ini=config is not None,
        )  # fmt: skip
    return _report(console, archive, result)


def _report(console: Console, archive: Path, result: RecoverResult) -> int:
    return console.result(
        {"archive": str(archive), **asdict(result)},
        f"{archive}: {count_text(result.files, 'file')}, {size_text(result.files_size)}, "
        f"in {count_text(result.objects, 'object')}",
        f"read {count_text(result.fetched, 'object')}, {size_text(result.size)}",
        f"snapshot {result.snapshot}:{result.head}",
    )
