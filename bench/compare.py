"""Times pyarchiver against restic and cp on the same data, in turns, in one run.

    python bench/compare.py [--runs 3] [--data FOLDER] [--library FOLDER] [--json FILE]

Corpora: `photos`, 1 GB of incompressible files of 6 to 10 MB made from a fixed seed, and
`library`, a Python installation's lib folder. Prints a Markdown table of medians; seconds mean
little on a shared machine, the ratios of one run do.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

PASSWORD = "a long and boring benchmark password"
PHOTOS_SIZE = 1_000_000_000

# An installed program has compiled modules: a shell that forbids writing them must not be timed.
ENVIRONMENT = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}


def make_photos(folder: Path) -> Path:
    """Incompressible files from a fixed seed, in folders of twenty."""
    if folder.exists():
        return folder
    making = folder.with_name(folder.name + ".making")
    shutil.rmtree(making, ignore_errors=True)
    random_source = random.Random(20260101)
    made = number = 0
    while made < PHOTOS_SIZE:
        size = random_source.randrange(6_000_000, 10_000_000)
        path = making / f"shoot-{number // 20:03}" / f"IMG_{number:05}.CR3"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(random_source.randbytes(size))
        made, number = made + size, number + 1
    making.rename(folder)
    return folder


def tree_size(folder: Path) -> int:
    """Bytes of all regular files below a folder."""
    return sum(
        (Path(where) / name).lstat().st_size
        for where, _, names in os.walk(folder)
        for name in names
        if (Path(where) / name).is_file() and not (Path(where) / name).is_symlink()
    )


def timed(command: list[str], environment: dict[str, str]) -> float:
    """Seconds that a command takes; it must succeed."""
    os.sync()
    began = time.perf_counter()
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def warm(source: Path) -> None:
    """Read the source once, so that every tool finds it in the page cache."""
    for where, _, names in os.walk(source):
        for name in names:
            path = Path(where) / name
            if path.is_file() and not path.is_symlink():
                with path.open("rb", buffering=0) as file:
                    while file.read(1 << 20):
                        pass


Result = dict[str, float]


def run_pyarchiver(source: Path, work: Path, restore: bool) -> Result:
    """First archive, unchanged run; restore and decrypt if asked for."""
    program = str(Path(sys.executable).with_name("pyarchiver"))
    environment = {**ENVIRONMENT, "PYARCHIVER_PASSWORD": PASSWORD}
    ini, archive, cold = work / "a.ini", work / "a.archive", work / "cold"
    places = ["--source", str(source), "--storage", str(cold)]
    subprocess.run([program, "init", str(ini), "--name", "a", *places, "-q"], check=True)
    result = {
        "first": timed([program, "start", str(ini), "-q"], environment),
        "unchanged": timed([program, "resume", str(archive), "-q"], environment),
        "stored": tree_size(cold),
    }
    for step, read_from in (("restore", archive), ("decrypt", cold)):
        if restore:
            command = [program, step, str(read_from), str(work / step), "-q"]
            result[step] = timed(command, environment)
    return result


def run_restic(source: Path, work: Path, restore: bool) -> Result:
    """The same with restic's defaults."""
    environment = {
        **ENVIRONMENT,
        "RESTIC_PASSWORD": PASSWORD,
        "RESTIC_REPOSITORY": str(work / "repo"),
        "RESTIC_CACHE_DIR": str(work / "cache"),
    }
    began = time.perf_counter()
    subprocess.run(["restic", "init", "-q"], env=environment, check=True)
    made = time.perf_counter() - began
    result = {
        "first": made + timed(["restic", "backup", "-q", str(source)], environment),
        "unchanged": timed(["restic", "backup", "-q", str(source)], environment),
        "stored": tree_size(work / "repo"),
    }
    if restore:
        command = ["restic", "restore", "-q", "latest", "--target", str(work / "out")]
        result["restore"] = timed(command, environment)
    return result


def run_cp(source: Path, work: Path, restore: bool) -> Result:
    """A plain copy, for scale."""
    command = ["cp", "-a", str(source), str(work / "copy")]
    return {"first": timed(command, ENVIRONMENT), "stored": tree_size(source)}


TOOLS: dict[str, Callable[[Path, Path, bool], Result]] = {
    "pyarchiver": run_pyarchiver,
    "restic": run_restic,
    "cp": run_cp,
}


def compare(source: Path, base: Path, runs: int, restore: bool) -> dict[str, list[Result]]:
    """Each tool in turn, `runs` times; the first round warms the page cache and is not counted."""
    results: dict[str, list[Result]] = {}
    for number in range(runs + 1):
        for name, tool in TOOLS.items():
            if shutil.which(name) is None and name != "pyarchiver":
                continue
            work = Path(tempfile.mkdtemp(prefix=f"bench-{name}-", dir=base))
            try:
                warm(source)
                result = tool(source, work, restore)
            finally:
                shutil.rmtree(work)
            if number:
                results.setdefault(name, []).append(result)
    return results


def medians(results: dict[str, list[Result]]) -> dict[str, Result]:
    """The median of each figure."""
    return {
        name: {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        for name, runs in results.items()
    }


def table(corpus: str, size: int, found: dict[str, Result]) -> str:
    """Markdown: MB/s of source, stored MB, and ratios to restic."""
    lines = [
        f"| {corpus}, {size / 1e6:,.0f} MB | first | unchanged | restore | decrypt | stored |",
        "|---|---|---|---|---|---|",
    ]
    for name, result in found.items():
        cells = [
            f"{size / result[key] / 1e6:,.0f} MB/s" if key in result else "-"
            for key in ("first", "restore", "decrypt")
        ]
        unchanged = f"{result['unchanged']:.2f} s" if "unchanged" in result else "-"
        stored = f"{result['stored'] / 1e6:,.1f} MB"
        lines.append(f"| {name} | {cells[0]} | {unchanged} | {cells[1]} | {cells[2]} | {stored} |")
    if "restic" in found:
        ours, theirs = found["pyarchiver"], found["restic"]
        ratios = [
            f"{theirs[key] / ours[key]:.2f}x" if key in ours else "-"
            for key in ("first", "unchanged", "restore")
        ]
        stored = f"{ours['stored'] / theirs['stored']:.2f}x"
        lines.append(
            f"| ratio to restic | {ratios[0]} | {ratios[1]} | {ratios[2]} | - | {stored} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Run the comparison and print it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--data", type=Path, default=Path(__file__).parent / "data")
    parser.add_argument("--library", type=Path, default=Path(sysconfig.get_path("stdlib")).parent)
    parser.add_argument("--only", choices=["photos", "library"])
    parser.add_argument("--no-restore", action="store_true", help="archive only")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    options.data.mkdir(parents=True, exist_ok=True)
    corpora = {}
    if options.only != "library":
        corpora["photos"] = make_photos(options.data / "photos")
    if options.only != "photos":
        corpora["library"] = options.library.resolve()
    everything = {}
    for name, source in corpora.items():
        results = compare(source, options.data, options.runs, not options.no_restore)
        everything[name] = results
        print(table(name, tree_size(source), medians(results)), flush=True)
        print()
    if options.json:
        options.json.write_text(json.dumps(everything, indent=1))


if __name__ == "__main__":
    main()
