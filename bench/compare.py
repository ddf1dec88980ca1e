"""Times pyarchiver against its rivals on the same data, in turns, in one run.

    python bench/compare.py [--rounds 3] [--scale 1] [--corpora photos,library] [--out FOLDER]

Every operation is done by each tool before the next operation begins. Seconds mean little on a
shared machine, the ratios of one run do. Writes results.json, table.md and chart.svg.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import corpora
import measure
import primitives
import report
from tools import OPERATIONS, TOOLS, Job, Tool

HERE = Path(__file__).parent
CORPORA = ("photos", "library", "releases")
# These are measured in every round, the others in the first one, for scale.
RIVALS = ("pyarchiver", "restic", "cp -a")


@dataclass(frozen=True, slots=True)
class Options:
    """What to measure, and where."""

    data: Path
    lib: Path
    rounds: int
    scale: float
    tools: tuple[Tool, ...]


def measure_corpus(name: str, options: Options) -> Iterator[report.Record]:
    """Each operation by each tool, round after round; the source is changed in between."""
    kept = corpora.make(name, options.data, options.lib, options.scale)
    for number in range(options.rounds):
        tools = [t for t in options.tools if not number or t.name in RIVALS]
        with tempfile.TemporaryDirectory(prefix="bench-", dir=options.data) as folder:
            source = Path(folder) / "source"
            shutil.copytree(kept, source, symlinks=True)
            # What was modified a moment ago is looked at twice: not what is to be timed.
            for path in corpora.files(source):
                os.utime(path, ns=(1_700_000_000_000_000_000, 1_700_000_000_000_000_000))
            time.sleep(2.1)
            yield from _round(name, number, tools, Path(folder), source)


def _round(
    name: str, number: int, tools: list[Tool], base: Path, source: Path
) -> Iterator[report.Record]:
    archived: dict[str, tuple[int, int]] = {}
    for operation in OPERATIONS:
        if operation == "edited" and name != "photos":
            continue
        if operation == "changed":
            corpora.change(source, number)
        elif operation == "edited":
            corpora.rewrite_fronts(source, number)
        files, size = corpora.tree_size(source)
        one = next(corpora.files(source)).relative_to(source)
        corpora.warm(source)
        for tool in tools:
            work, out = base / tool.name.replace(" ", "-"), base / "out"
            (work / "store").mkdir(parents=True, exist_ok=True)
            job = Job(source, work, out, one)
            commands = tool.commands(operation, job)
            if not commands:
                continue
            out.mkdir()
            corpora.warm(work / "store")
            taken = measure.Measured(0, 0, 0)
            for command in commands:
                folder = out if operation in ("restore", "one") else work
                taken += measure.run(command, job.environment, folder)
            if operation in ("first", "changed"):
                archived[tool.name] = files, size
            elif operation == "restore":
                _check(tool, out, *archived[tool.name])
            shutil.rmtree(out)
            objects, stored = corpora.tree_size(work / "store")
            yield report.Record(
                name, number, tool.name, operation, files, size, objects, stored, **asdict(taken)
            )


def _check(tool: Tool, out: Path, files: int, size: int) -> None:
    found = corpora.tree_size(out)
    log = (out / "output.log").stat().st_size
    if found != (files + 1, size + log):
        raise SystemExit(f"{tool.name} restored {found}, not {files} files of {size} bytes")


def main() -> None:
    """Measure, tell as it goes, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scale", type=float, default=1, help="size of the photos, of 1 GB")
    parser.add_argument("--corpora", default=",".join(CORPORA))
    parser.add_argument("--tools", default=",".join(tool.name for tool in TOOLS))
    parser.add_argument("--data", type=Path, default=HERE / "data")
    parser.add_argument("--lib", type=Path, default=Path(sysconfig.get_path("stdlib")).parent)
    parser.add_argument("--out", type=Path, default=HERE / "results")
    given = parser.parse_args()
    given.data.mkdir(parents=True, exist_ok=True)
    chosen = tuple(t for t in TOOLS if t.name in given.tools.split(",") and t.installed)
    options = Options(given.data.resolve(), given.lib, given.rounds, given.scale, chosen)
    records: list[report.Record] = []
    for name in given.corpora.split(","):
        for record in measure_corpus(name, options):
            print(record, flush=True)
            records.append(record)
    results = report.Results(
        time.strftime("%Y-%m-%d"),
        f"{platform.system()} {platform.release()}, {os.cpu_count()} cores, {_processor()}",
        {tool.name: tool.version_text() for tool in chosen},
        primitives.speeds(),
        records,
    )
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "results.json").write_text(json.dumps(asdict(results), indent=1))
    report.write(results, given.out)
    print((given.out / "table.md").read_text())


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(": ")[1] for line in lines if line.startswith("model name")), "")


if __name__ == "__main__":
    main()
