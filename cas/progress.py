"""How the engines tell what they do: one small observer, which never prints by itself here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol


class Observer(Protocol):
    """Receives progress. Called from the engine's main thread; must return quickly."""

    wants_total: bool
    """Whether a total is worth an extra pass over the source (a terminal shows an ETA)."""

    def begin(self, phase: str, files: int | None, size: int | None) -> None:
        """A phase begins, of so many files and bytes where that is known."""

    def advance(self, files: int = 0, read: int = 0, stored: int = 0) -> None:
        """So many more files are done, bytes read, bytes stored."""

    def notice(self, message: str) -> None:
        """Something worth knowing that is no failure."""

    def problem(self, message: str) -> None:
        """Something was left out; the command ends with exit code 3."""


@dataclass
class Quiet:
    """An observer that only collects; for tests and for library use."""

    wants_total: bool = False
    notices: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def begin(self, phase: str, files: int | None, size: int | None) -> None:
        """Ignored."""

    def advance(self, files: int = 0, read: int = 0, stored: int = 0) -> None:
        """Ignored."""

    def notice(self, message: str) -> None:
        """Kept in `notices`."""
        self.notices.append(message)

    def problem(self, message: str) -> None:
        """Kept in `problems`."""
        self.problems.append(message)


def show(path: bytes) -> str:
    """A path as one can print it: whatever is not UTF-8 or not printable is escaped."""
    return printable(path.decode("utf-8", "backslashreplace") or ".")


def printable(text: str) -> str:
    """A line in which names can do nothing to a terminal: what is not printable is escaped."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in text
    )
