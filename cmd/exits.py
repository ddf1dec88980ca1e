"""Exit codes, all of them."""

from __future__ import annotations

from enum import IntEnum

from pyarchiver.formats.errors import ArchiverError, ColdError, SettingsError


class Exit(IntEnum):
    """What the program's exit code says."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    PARTIAL = 3
    WAITING = 4
    INTERRUPTED = 130


MEANING = {
    Exit.DONE: "done",
    Exit.FAILED: "failed; the message says why",
    Exit.USAGE: "wrong option, argument or setting; nothing was done",
    Exit.PARTIAL: "done except for what is listed",
    Exit.WAITING: "waiting for cold storage; run again later",
    Exit.INTERRUPTED: "interrupted; run again to go on",
}


def exit_of(error: ArchiverError) -> Exit:
    """The exit code for an error that ends the program."""
    match error:
        case SettingsError():
            return Exit.USAGE
        case ColdError():
            return Exit.WAITING
    return Exit.FAILED
