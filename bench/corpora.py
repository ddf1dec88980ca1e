"""The trees that the benchmark archives: made from fixed seeds, kept in one folder.

`photos`    1 GB of incompressible files of 6 to 10 MB, each with an XMP sidecar
`library`   a copy of a Python installation's lib folder
`releases`  seven releases of Django, unpacked side by side

Each is copied to where it is worked on, because it is changed there: `change` touches one file in
a hundred, `rewrite_fronts` gives every photo new metadata at its beginning, so that all shifts.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

PHOTOS_SIZE = 1_000_000_000
RELEASES = ("3.2", "4.0", "4.1", "4.2", "5.0", "5.1", "5.2")
_METADATA = 48 << 10
_SIDECAR = (
    "<x:xmpmeta xmlns:x='adobe:ns:meta/'><rdf:Description xmp:Rating='{rating}'"
    " exif:ISOSpeedRatings='{iso}' xmp:ModifyDate='2026-{month:02}-{day:02}T{hour:02}:00:00'>\n"
)


def photos(folder: Path, size: int = PHOTOS_SIZE) -> None:
    """Folders of twenty photos; each begins with metadata, which text stands for."""
    seeded = random.Random(20260101)
    made = number = 0
    while made < size:
        length = seeded.randrange(6_000_000, 10_000_000)
        path = folder / f"shoot-{number // 20:03}" / f"IMG_{number:05}.CR3"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(_metadata(seeded, _METADATA) + seeded.randbytes(length - _METADATA))
        path.with_suffix(".xmp").write_bytes(_metadata(seeded, seeded.randrange(4_000, 8_000)))
        made, number = made + length, number + 1


def _metadata(seeded: random.Random, size: int) -> bytes:
    text = ""
    while len(text) < size:
        text += _SIDECAR.format(
            rating=seeded.randrange(6), iso=seeded.randrange(100, 6400),
            month=seeded.randrange(1, 13), day=seeded.randrange(1, 29), hour=seeded.randrange(24),
        )  # fmt: skip
    return text[:size].encode()


def releases(folder: Path, wheels: Path) -> None:
    """The wheels are downloaded once."""
    for release in RELEASES:
        if not (found := list(wheels.glob(f"[Dd]jango-{release}-*.whl"))):
            command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps"]
            command += ["--only-binary", ":all:", "--dest", str(wheels), f"django=={release}"]
            subprocess.run(command, check=True)
            found = list(wheels.glob(f"[Dd]jango-{release}-*.whl"))
        with zipfile.ZipFile(found[0]) as wheel:
            wheel.extractall(folder / f"django-{release}")


def library(folder: Path, lib: Path) -> None:
    """Copied without what other programs may be writing meanwhile: nothing is left out."""
    shutil.copytree(lib, folder, symlinks=True)


def make(name: str, data: Path, lib: Path, scale: float) -> Path:
    """The corpus of that name below `data`, made unless it is there."""
    folder = data / (name if scale == 1 else f"{name}-{scale:g}")
    if folder.exists():
        return folder
    makers: dict[str, Callable[[Path], None]] = {
        "photos": lambda making: photos(making, int(PHOTOS_SIZE * scale)),
        "library": lambda making: library(making, lib),
        "releases": lambda making: releases(making, data / "wheels"),
    }
    making = folder.with_name(folder.name + ".making")
    shutil.rmtree(making, ignore_errors=True)
    makers[name](making)
    making.rename(folder)
    return folder


def files(folder: Path) -> Iterator[Path]:
    """Its regular files, in an order that stays."""
    for where, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            path = Path(where) / name
            if path.is_file() and not path.is_symlink():
                yield path


def tree_size(folder: Path) -> tuple[int, int]:
    """(files, bytes) of all regular files below a folder."""
    sizes = [path.stat().st_size for path in files(folder)]
    return len(sizes), sum(sizes)


def warm(folder: Path) -> None:
    """Read it once, so that every tool finds it in the page cache."""
    for path in files(folder):
        with path.open("rb", buffering=0) as file:
            while file.read(1 << 20):
                pass


def change(folder: Path, seed: int) -> None:
    """One file in a hundred: half get other bytes in the middle, a quarter go, a quarter double."""
    seeded = random.Random(seed)
    all_files = list(files(folder))
    for number, path in enumerate(seeded.sample(all_files, max(4, len(all_files) // 100))):
        data = path.read_bytes()
        if number % 4 == 0:
            path.unlink()
        elif number % 4 == 1:
            path.with_name(f"new-{seed}-{path.name}").write_bytes(data[::-1])
        else:
            middle = len(data) // 2
            path.write_bytes(data[:middle] + seeded.randbytes(100) + data[middle + 50 :])


def rewrite_fronts(folder: Path, seed: int) -> None:
    """New metadata of another length before the unchanged rest of every photo."""
    seeded = random.Random(seed)
    for path in files(folder):
        if path.suffix == ".CR3":
            data = path.read_bytes()
            path.write_bytes(_metadata(seeded, _METADATA + 1000 + seed) + data[_METADATA:])
