"""The program's name and version, as objects carry it."""

from __future__ import annotations

from importlib import metadata

VERSION = metadata.version("pyarchiver")
PROGRAM = f"pyarchiver {VERSION}"
