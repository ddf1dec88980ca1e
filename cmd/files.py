"""The types of arguments that name one of our files: shells complete those, and no others."""

from __future__ import annotations

import os
import string
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

_PLAIN = frozenset(string.ascii_letters + string.digits + "-_./~+,@%")


class AnyPath(click.Path):
    """A path. An empty one, as of a variable that is not set, is not taken for this folder."""

    def __init__(
        self, *, file_okay: bool = True, dir_okay: bool = True, exists: bool = False
    ) -> None:
        super().__init__(exists, file_okay, dir_okay, path_type=Path)

    def convert(
        self,
        value: str | os.PathLike[str],
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> Any:
        """As click does, if it is not empty."""
        if not os.fspath(value):
            self.fail("it is empty", param, ctx)
        return super().convert(value, param, ctx)


class OurFile(AnyPath):
    """A file, completed among those with a suffix; where there is none, among all."""

    def __init__(self, suffix: str) -> None:
        super().__init__(dir_okay=False)
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
