"""Leaves the page cache as it was: terabytes that pass through push out nobody else's files."""

from __future__ import annotations

import os


def is_cached(descriptor: int) -> bool:
    """Whether a file's first byte is in memory; True too where the system cannot tell."""
    if not hasattr(os, "RWF_NOWAIT"):
        return True
    try:
        os.preadv(descriptor, [bytearray(1)], 0, os.RWF_NOWAIT)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


def forget(descriptor: int) -> None:
    """A file, durable if it was written, will not be read again soon."""
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
