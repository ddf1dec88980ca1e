"""What the user sees: progress, notices and problems on stderr, results on stdout.

Messages are lower case and without a full stop; each names its object and the next step. On a
terminal progress is drawn with rate and ETA; elsewhere it is a line now and then; with `--json`
the result is one JSON object on stdout.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from functools import update_wrapper
from typing import TYPE_CHECKING, Any

import click

from pyarchiver.cas.progress import printable
from pyarchiver.cas.units import count_text
from pyarchiver.cmd.exits import Exit

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_REDRAW = 0.1
# Columns of a terminal, for words beside a bar.
_BAR_NEEDS = 72
_LINE_EVERY = 30.0
_SENDING = "sending"
_UNITS = {"deleting": "object", "verifying": "object"}
# Who closes the pipe has read enough: that is no failure.
_READ_ENOUGH = contextlib.suppress(BrokenPipeError)
_ALWAYS_TOLD = ("archiving", "restoring", "deleting", "verifying")


def size_text(size: int) -> str:
    """Bytes as people read them, in powers of 1000 as disks and bills count."""
    import humanize

    return humanize.naturalsize(size, format="%.1f")


class Console:
    """The observer of all commands, and the printer of their results."""

    def __init__(self, quiet: bool, verbose: bool, as_json: bool) -> None:
        self._quiet = quiet or as_json
        self._verbose = verbose
        self._json = as_json
        dumb = os.environ.get("TERM") == "dumb"
        self._terminal = sys.stderr.isatty() and not self._quiet and not dumb
        self.wants_total = self._terminal
        self.problems: list[str] = []
        self.notices: list[str] = []
        self.printed = 0
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._phase = ""
        self._unit = "file"
        self._files = self._read = self._stored = 0
        self._drawn = time.monotonic()
        self._began = self._worked_from = time.monotonic()

    # As an observer

    def begin(self, phase: str, files: int | None, size: int | None) -> None:
        """Show a new phase."""
        self._phase = phase
        self._unit = _UNITS.get(phase, "file")
        self._files = self._read = self._stored = 0
        self._began = self._drawn = time.monotonic()
        if phase != _SENDING:
            self._worked_from = self._began
        if self._terminal:
            self._draw_begin(size)
        elif self._verbose or phase in _ALWAYS_TOLD:
            of = ""
            if files is not None and size:
                of = f": {count_text(files, self._unit)}, {size_text(size)}"
            self._line(phase + of)

    def advance(self, files: int = 0, read: int = 0, stored: int = 0) -> None:
        """Count, and redraw now and then."""
        self._files += files
        self._read += read
        self._stored += stored
        now = time.monotonic()
        if self._terminal:
            if now - self._drawn > _REDRAW:
                self._drawn = now
                self._redraw()
        elif now - self._drawn > _LINE_EVERY:
            self._drawn = now
            self._line(f"{self._phase}: {self._counts()}")

    def notice(self, message: str) -> None:
        """Tell, unless quiet."""
        message = printable(message)
        self.notices.append(message)
        self._line(message)

    def problem(self, message: str) -> None:
        """Tell in any case; the exit code becomes 3."""
        message = printable(message)
        self.problems.append(message)
        self._print(message)

    # Results

    def result(
        self, fields: dict[str, Any], *lines: str, waiting: bool = False, asked: bool = False
    ) -> int:
        """Print the result of a command; returns its exit code, `waiting` for cold storage.

        However quiet, where the lines are what the command was `asked` for.
        """
        self.close()
        code = Exit.WAITING if waiting else Exit.PARTIAL if self.problems else Exit.DONE
        if self._json:
            extra = {"exit": int(code), "problems": self.problems, "notices": self.notices}
            lines = (json.dumps({**fields, **extra}),)
        elif self._quiet and not asked:
            lines = ()
        with _READ_ENOUGH:
            for line in lines:
                click.echo(_shown(line) if sys.stdout.isatty() else line)
            sys.stdout.flush()
        if self.problems and not self._json:
            self._print(f"{count_text(len(self.problems), 'problem')}, listed above")
        return code

    def rows(self, rows: Iterable[tuple[dict[str, Any], str]]) -> list[dict[str, Any]]:
        """Print the text of each row as it comes; with --json return the fields of all instead."""
        if self._json:
            return [fields for fields, _ in rows]
        with _READ_ENOUGH:
            for _, text in rows:
                sys.stdout.write(text + "\n")
                self.printed += 1
        return []

    def line(self, text: str) -> None:
        """Print a line of the result, unless quiet."""
        if not self._quiet:
            with _READ_ENOUGH:
                click.echo(text)

    def table(self, heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
        """Lines of aligned columns; a head that begins with > aligns to the right."""
        from rich.cells import cell_len

        def aligned(text: str, width: int, right: bool) -> str:
            gap = " " * (width - cell_len(text))
            return gap + text if right else text + gap

        # Not rich's own table, which takes a second for every thousand rows.
        lines = [[head.removeprefix(">") for head in heads], *rows]
        widths = [max(map(cell_len, column)) for column in zip(*lines, strict=True)]
        rights = [head.startswith(">") for head in heads]
        return ["  ".join(map(aligned, line, widths, rights)).rstrip() for line in lines]

    def secret(self, *lines: str) -> None:
        """Print what must be seen once, however quiet; with --json on stderr."""
        if self._progress:
            # It is drawn on stderr: a line on stdout would begin in its midst.
            self._progress.stop()
        for line in lines:
            click.echo(line, err=self._json)
        (sys.stderr if self._json else sys.stdout).flush()
        if self._progress:
            self._progress.start()

    def recovery_code(self, code: str) -> None:
        """Show the recovery code of a new archive, the only time that it can be."""
        self.secret(
            f"recovery code: {code}",
            "keep it on paper, apart from the archive: it opens all if the password is lost",
        )

    def elapsed(self) -> float:
        """Seconds since the last phase of work began, with the sending of what it made."""
        return max(1e-3, time.monotonic() - self._worked_from)

    def close(self) -> None:
        """Leave the progress display."""
        if self._progress:
            self._progress.stop()
            self._progress = None

    # Drawing

    @property
    def _done(self) -> int:
        """What of the phase's bytes is done."""
        return self._stored if self._phase == _SENDING else self._read

    def _counts(self) -> str:
        rate = size_text(int(self._done / max(1e-3, time.monotonic() - self._began)))
        if self._phase == _SENDING:
            return f"{size_text(self._stored)} ({rate}/s)"
        text = f"{count_text(self._files, self._unit)}, {size_text(self._read)} ({rate}/s)"
        return text + (f", {size_text(self._stored)} stored" if self._stored else "")

    def _line(self, message: str) -> None:
        if not self._quiet:
            self._print(message)

    def _print(self, message: str) -> None:
        if self._progress:
            self._progress.console.print(f"pyarchiver: {message}", markup=False, highlight=False)
        else:
            click.echo(f"pyarchiver: {message}", err=True)

    def _draw_begin(self, size: int | None) -> None:
        from rich.console import Console as Terminal
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
        from rich.table import Column

        if self._progress is None:
            terminal = Terminal(stderr=True)
            # A terminal shows ^C behind the line: on a full one it would begin another.
            terminal.width -= 4
            bar = BarColumn(None, table_column=Column(max_width=40))
            words, counts = "{task.description}", "{task.fields[counts]}"
            self._progress = Progress(
                *(
                    [TextColumn(words), bar, TextColumn(counts), TimeRemainingColumn()]
                    if terminal.width >= _BAR_NEEDS
                    else [TextColumn(f"{words} {counts}")]
                ),
                console=terminal,
                refresh_per_second=4,
                transient=True,
                # Read by packs, and as fast as those are sent: the average of a while foretells.
                speed_estimate_period=600,
            )
            self._progress.start()
        if self._task is not None:
            self._progress.remove_task(self._task)
        self._task = self._progress.add_task(self._phase, total=size or None, counts="")

    def _redraw(self) -> None:
        if self._progress and self._task is not None:
            self._progress.update(self._task, completed=self._done, counts=self._counts())


def _shown(text: str) -> str:
    return "\n".join(map(printable, text.split("\n")))


def with_console(function: Callable[..., int]) -> Callable[..., int]:
    """Give a command `-q`, `-v` and `--json`, and a Console as its first argument."""

    @click.option(
        "-q", "--quiet", is_flag=True, help="Print only what is asked for, problems and errors."
    )
    @click.option("-v", "--verbose", is_flag=True, help="Say more of what is done.")
    @click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on stdout.")
    def wrapper(quiet: bool, verbose: bool, as_json: bool, **arguments: Any) -> int:
        console = Console(quiet, verbose, as_json)
        try:
            return function(console, **arguments)
        finally:
            console.close()

    return update_wrapper(wrapper, function)
