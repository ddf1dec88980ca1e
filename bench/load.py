"""Loads the program far beyond the usual, and records time and peak memory of every step.

    python bench/load.py [--only files|large|resumes|snapshots] [--scale 1.0] [--data FOLDER]

`files`: an archive of a million small files. `large`: one file of 200 GB, sparse, with a mebibyte
of data every 2 GB. `resumes`: 100 runs in a row. `snapshots`: a log of 10,000 snapshots, each made
by a real run, all in one process. What is restored is compared with the source. Prints tables in
Markdown.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import reduce
from operator import add
from pathlib import Path

import measure
from measure import Measured

PASSWORD = "a long and boring benchmark password"
PROGRAM = str(Path(sys.executable).with_name("pyarchiver"))
ENVIRONMENT = {**os.environ, "PYARCHIVER_PASSWORD": PASSWORD}
FILES, FOLDER_FILES = 1_000_000, 1000
LARGE, ISLAND_EVERY, ISLAND = 200 * 10**9, 2 * 10**9, 1 << 20
RESUMES, SNAPSHOTS = 100, 10_000
OLD_NS = 1_500_000_000 * 10**9


@dataclass(frozen=True, slots=True)
class Step:
    """One command, and what it took."""

    name: str
    took: Measured


def ours(work: Path, name: str, *command: str | Path) -> Step:
    """A command of pyarchiver, run to its good end."""
    return run(work, name, PROGRAM, *command, "-q")


def run(work: Path, name: str, *command: str | Path) -> Step:
    """The same for any command."""
    return Step(name, measure.run([str(word) for word in command], ENVIRONMENT, work))


def write(path: Path, data: bytes) -> None:
    """A file that no run takes for just modified."""
    path.write_bytes(data)
    os.utime(path, ns=(OLD_NS, OLD_NS + len(data)))


def begin(work: Path) -> Path:
    """An ini file for work/source and work/cold."""
    ini = work / "a.ini"
    source, cold = work / "source", work / "cold"
    ours(work, "init", "init", ini, "--name", "a", "--source", source, "--storage", cold)
    return ini


def same(work: Path) -> None:
    """Fails where what was restored is not the source."""
    compare = ["rsync", "-anic", "--delete", f"{work}/source/", f"{work}/out/"]
    found = subprocess.run(compare, capture_output=True, text=True, check=True).stdout
    if found:
        raise SystemExit(f"restored otherwise:\n{found[:1000]}")


def many_files(work: Path, scale: float) -> Iterator[Step]:
    """A million files of up to 300 bytes, all different."""
    chance = random.Random(1)
    for number in range(int(FILES * scale)):
        folder = work / "source" / f"{number // FOLDER_FILES:05}"
        if number % FOLDER_FILES == 0:
            folder.mkdir(parents=True)
        write(folder / f"{number:07}", b"%d " % number + chance.randbytes(chance.randrange(290)))
    yield ours(work, "start", "start", begin(work))
    yield ours(work, "resume, nothing new", "resume", work / "a.archive")
    yield ours(work, "status", "status", work / "a.archive")
    yield ours(work, "list", "list", work / "a.archive")
    yield ours(work, "restore", "restore", work / "a.archive", work / "out")
    same(work)
    shutil.rmtree(work / "out")
    yield ours(work, "decrypt", "decrypt", work / "cold", work / "out")
    same(work)


def large_file(work: Path, scale: float) -> Iterator[Step]:
    """A sparse file; compared by its islands, for 200 GB of zeros take long to read."""
    chance = random.Random(2)
    (work / "source").mkdir()
    size = int(LARGE * scale)
    islands = {at: chance.randbytes(ISLAND) for at in range(0, size - ISLAND, ISLAND_EVERY)}
    with (work / "source" / "large").open("wb") as file:
        file.truncate(size)
        for at, data in islands.items():
            file.seek(at)
            file.write(data)
    os.utime(work / "source" / "large", ns=(OLD_NS, OLD_NS))
    yield ours(work, "start", "start", begin(work))
    yield ours(work, "resume, nothing new", "resume", work / "a.archive")
    yield ours(work, "restore", "restore", work / "a.archive", work / "out")
    with (work / "out" / "large").open("rb") as file:
        for at, data in islands.items():
            file.seek(at)
            if file.read(ISLAND) != data:
                raise SystemExit(f"restored otherwise at {at}")
        if os.fstat(file.fileno()).st_size != size:
            raise SystemExit("restored with another size")


def many_resumes(work: Path, scale: float) -> Iterator[Step]:
    """Each run finds one file changed and one new among a thousand."""
    folder = work / "source"
    folder.mkdir()
    for number in range(FOLDER_FILES):
        write(folder / f"{number}", b"%d" % number)
    yield ours(work, "start", "start", begin(work))
    steps = []
    for number in range(1, max(1, int(RESUMES * scale)) + 1):
        write(folder / f"new {number}", b"new %d" % number)
        write(folder / "1", b"changed %d" % number)
        steps.append(ours(work, f"resume {number}", "resume", work / "a.archive"))
    yield from (steps[0], steps[-1])
    yield Step("all resumes together", reduce(add, (step.took for step in steps)))
    yield ours(work, "restore", "restore", "--exact", work / "a.archive", work / "out")
    same(work)


def many_snapshots(work: Path, scale: float) -> Iterator[Step]:
    """Runs one after another in one process, then what reads such a log."""
    (work / "source").mkdir()
    write(work / "source" / "first", b"first")
    yield ours(work, "start", "start", begin(work))
    count = str(int(SNAPSHOTS * scale))
    yield run(work, f"{count} runs", sys.executable, __file__, "--runs-in", work, "--runs", count)
    archive = work / "a.archive"
    yield ours(work, "resume, nothing new", "resume", archive)
    yield ours(work, "status", "status", archive)
    yield ours(work, "restore, newest", "restore", archive, work / "out", "--exact")
    same(work)
    shutil.rmtree(work / "out")
    half = str(int(SNAPSHOTS * scale) // 2)
    yield ours(
        work, f"restore, snapshot {half}", "restore", archive, work / "half", "--snapshot", half
    )
    yield ours(work, "decrypt", "decrypt", work / "cold", work / "out")
    same(work)


def runs_in(work: Path, count: int) -> None:
    """So many runs of one archive, each of which changes one of ten files; in this process."""
    from pyarchiver.cas import archiver
    from pyarchiver.cas.catalogue import Catalogue
    from pyarchiver.cas.progress import Quiet

    for number in range(count):
        write(work / "source" / f"{number % 10}", b"%d" % number)
        with Catalogue.open(work / "a.archive", write=True) as catalogue:
            if not archiver.resume(catalogue, Quiet()).new:
                raise SystemExit(f"run {number} found nothing new")


LOADS: dict[str, Callable[[Path, float], Iterator[Step]]] = {
    "files": many_files,
    "large": large_file,
    "resumes": many_resumes,
    "snapshots": many_snapshots,
}


def load(name: str, scale: float, data: Path | None) -> None:
    """One load, in a folder of its own that is removed after it."""
    work = Path(tempfile.mkdtemp(prefix=f"load-{name}-", dir=data))
    try:
        head = "seconds | of the processor | peak memory |\n|---|---|---|---|"
        print(f"\n| {name} | {head}", flush=True)
        for step in LOADS[name](work, scale):
            took = step.took
            figures = f"{took.wall:.1f} | {took.cpu:.1f} | {took.peak / 1e6:.0f} MB"
            print(f"| {step.name} | {figures} |", flush=True)
        kept = work / "a.archive"
        cold = [path.stat().st_size for path in (work / "cold").iterdir()]
        print(f"| *.archive {kept.stat().st_size / 1e6:.1f} MB* | | | |")
        print(f"| *{len(cold)} objects, {sum(cold) / 1e6:.1f} MB* | | | |", flush=True)
    finally:
        shutil.rmtree(work)


def main() -> None:
    """Run the loads and print what they took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=LOADS)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--data", type=Path, help="where to work; 10 GB are needed")
    parser.add_argument("--runs-in", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--runs", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.runs_in:
        runs_in(options.runs_in, options.runs)
        return
    for name in [options.only] if options.only else LOADS:
        load(name, options.scale, options.data)


if __name__ == "__main__":
    main()
