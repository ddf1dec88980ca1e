"""How storages ask for a secret that nobody gave them. The commands put a prompt here."""

from __future__ import annotations

from collections.abc import Callable

from pyarchiver.formats.errors import SettingsError


def _refuse(what: str, variable: str) -> str:
    raise SettingsError(f"no {what}: set ${variable}")


ask: Callable[[str, str], str] = _refuse
"""`ask(what, variable)`: the secret; `variable` is the one of the environment that gives it."""
