"""The types of arguments that name one of our files: shells complete those, and no others."""

from __future__ import annotations

import string
from pathlib import Path

import click
from click.shell_completion import CompletionItem

_PLAIN = frozenset(string.ascii_letters + string.digits + "-_./~+,@%")


class OurFile(click.Path):
    """A file, completed among those with a suffix; where there is none, among all."""

    def __init__(self, suffix: str) -> None:
        super().__init__(path_type=Path, dir_okay=False)
        self._suffix = suffix

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """The files of that suffix in the folder that is typed so far."""
        cut = incomplete.rfind("/") + 1
        folder, begin = incomplete[:cut], incomplete[cut:]
        try:
            names = sorted(path.name for path in Path(folder or ".").expanduser().iterdir())
        except (OSError, RuntimeError):
            names = []
        found = [
            folder + name
            for name in names
            if name.endswith(self._suffix) and name.startswith(begin)
        ]
        # click's scripts do not quote; a shell's own completion of files does.
        if not found or any(set(name) - _PLAIN for name in found):
            return [CompletionItem(incomplete, type="file")]
        return [CompletionItem(name) for name in found]


ARCHIVE = OurFile(".archive")
INI = OurFile(".ini")
