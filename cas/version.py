"""The program's name and version, as objects carry it."""

from __future__ import annotations

VERSION = "0.1.0"
PROGRAM = f"pyarchiver {VERSION}"
