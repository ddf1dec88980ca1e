"""Durability of files and folders: what must happen before the catalogue says so."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def sync_folder(folder: Path) -> None:
    """fsync a folder, so that a rename in it survives a power failure (no-op on Windows)."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_below(folder: Path) -> None:
    """Make all that was written below a folder durable: its file system on Linux, else all."""
    if sys.platform == "linux":
        import ctypes  # 10 ms, needed here alone

        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            if ctypes.CDLL(None, use_errno=True).syncfs(descriptor):
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        finally:
            os.close(descriptor)
    elif hasattr(os, "sync"):
        os.sync()
    sync_folder(folder)
