"""What passes through does not stay in memory, and what others keep there does."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from helpers_cli import Place, Sizes, noise, write
from pyarchiver.cas.pagecache import forget, is_cached

SIZE = 1 << 20


def cached(path: Path) -> bool:
    with path.open("rb") as file:
        return is_cached(file.fileno())


def pushed_out(path: Path) -> None:
    """A durable file of which nothing is in memory."""
    write(path, noise(path.name, SIZE))
    with path.open("rb") as file:
        os.fsync(file.fileno())
        forget(file.fileno())


def test_asking_reads_nothing(tmp_path: Path) -> None:
    path = tmp_path / "cold.raw"
    pushed_out(path)
    if cached(path):
        pytest.skip("this file system does not forget, or does not tell")
    assert [cached(path) for _ in range(200)] == [False] * 200
    path.read_bytes()
    assert cached(path)


def test_an_archived_file_stays_where_it_was(tmp_path: Path) -> None:
    place = Place(tmp_path)
    cold, warm = place.source / "cold.raw", place.source / "warm.raw"
    pushed_out(tmp_path / "other.raw")
    if cached(tmp_path / "other.raw"):
        pytest.skip("this file system does not forget, or does not tell")
    pushed_out(cold)
    write(warm, noise("warm", SIZE))
    place.start(Sizes(pack=16 << 20, block=8 << 20))
    assert not cached(cold)
    assert cached(warm)
    assert not any(cached(path) for path in place.objects("p"))
