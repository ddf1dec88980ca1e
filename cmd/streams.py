"""The program's streams: what is lost on stderr stops no work, a lost result is told.

The first write that fails is told once; whatever follows it goes nowhere, so that nothing is left
to be written when the program ends.
"""

from __future__ import annotations

import io
import os
import sys
from typing import Any, TextIO

from pyarchiver.formats.errors import ArchiverError


class OutputError(ArchiverError):
    """A result could not be written to stdout."""


class _Told(io.FileIO):
    """Standard error: what cannot be written is lost."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data) or len(memoryview(data))
        except OSError:
            return len(memoryview(data))


class _Result(io.FileIO):
    """Standard output: OutputError, or BrokenPipeError where its reader has gone."""

    _lost = False

    def write(self, data: Any, /) -> int:
        if self._lost:
            return len(memoryview(data))
        try:
            return super().write(data)
        except BrokenPipeError:
            self._lost = True
            raise
        except OSError as error:
            self._lost = True
            raise OutputError(f"cannot write the result: {error.strerror}") from None


def guard() -> None:
    """Replace stdout and stderr by streams that can fail; one that is closed is /dev/null."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # The lowest free number: this one, before a file of ours gets it.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    sys.stdin = sys.stdin or os.fdopen(0, closefd=False)
    sys.stdout = _text(sys.stdout, _Result(1, "w", closefd=False))
    sys.stderr = _text(sys.stderr, _Told(2, "w", closefd=False))


def _text(before: TextIO | None, raw: io.FileIO) -> TextIO:
    # Names that the terminal's encoding does not have are shown, not fatal.
    if os.name == "nt" and raw.isatty() and isinstance(before, io.TextIOWrapper):
        # A console there takes no bytes.
        before.reconfigure(errors="backslashreplace")
        return before
    return io.TextIOWrapper(
        io.BufferedWriter(raw), before.encoding if before else None, "backslashreplace",
        line_buffering=raw.isatty() or raw.fileno() == 2,
    )  # fmt: skip
