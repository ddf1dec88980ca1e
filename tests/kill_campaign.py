"""`kill -9` at every commit of start and resume, and at random moments: `make crash` runs it.

Each life of an archive is a start, a change of the source, and a resume, each killed at a commit
and some of the runs after it killed again; then all is completed and looked at.
"""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from crash_driver import Check, unhurried
from helpers_cli import Place, environment, make_tree, noise, write
from pyarchiver.cas.catalogue import Catalogue
from pyarchiver.formats.header import Kind

DRIVER = Path(__file__).with_name("kill_driver.py")


@dataclass
class Report:
    """What was done, and what was wrong afterwards."""

    kills: int = 0
    at: Counter[str] = field(default_factory=Counter)
    """Kills by kind of moment."""
    in_flight: list[int] = field(default_factory=list)
    """Packs that were staged and not stored, at each kill."""
    objects: int = 0
    cut: int = 0
    """Transfers that a kill cut short, and the next run did again."""
    wrong: list[str] = field(default_factory=list)

    def text(self) -> str:
        """A few lines to print."""
        five = sum(number >= 5 for number in self.in_flight)
        moments = ", ".join(f"{count} {what}" for what, count in sorted(self.at.items()))
        return "\n".join([
            f"{self.kills} kills: {moments}",
            f"packs in flight: up to {max(self.in_flight)}, at least five at {five} kills",
            f"{self.objects} objects, each stored once; {self.cut} transfers were cut short",
            *(self.wrong or ["nothing lost, sent twice or unaccounted for"]),
        ])  # fmt: skip


class Life:
    """One archive, killed again and again."""

    def __init__(self, work: Path, report: Report, chosen: random.Random) -> None:
        self.place = Place(work, kit=True)
        self._report = report
        self._chosen = chosen
        self.seconds = 0.0
        """How long the last run that was not killed took."""
        work.mkdir(parents=True)
        make_tree(self.place.source, files=18, size=150_000)
        write(self.place.source / "deleted" / "file", noise("deleted", 150_000))

    def change(self) -> None:
        """New files, a changed one, one that is gone, one copied."""
        source = self.place.source
        for number in range(14):
            write(source / "new" / f"n{number}.raw", noise(("new", number), 150_000))
        write(source / "shoot0" / "p000.raw", noise("changed", 200_000))
        shutil.copy2(source / "shoot2" / "p002.raw", source / "copied.raw")
        shutil.rmtree(source / "deleted", ignore_errors=True)

    def run(self, commit: int = 0, when: str = "after", seconds: float | None = None) -> int:
        """A run that is killed at a commit, or after so many seconds; how many commits it had."""
        began = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, DRIVER, self.place.work, str(commit), when],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=environment(PYTHONPATH=str(DRIVER.parent)),
        )  # fmt: skip
        try:
            out, errors = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            out, errors = process.communicate()
        if process.returncode == -signal.SIGKILL:
            self._killed("at a random moment" if seconds else f"{when} a commit")
            return 0
        if process.returncode:
            self._report.wrong.append(f"{self.place.work}: {errors}")
            return 0
        self.seconds = time.monotonic() - began
        return int(out)

    def _killed(self, what: str) -> None:
        self._report.kills += 1
        self._report.at[what] += 1
        self._report.in_flight.append(self._in_flight())

    def _in_flight(self) -> int:
        """Packs that are staged, by a copy: looking at the catalogue would tidy up in it."""
        with tempfile.TemporaryDirectory() as copy:
            for path in self.place.work.glob("photos.archive*"):
                shutil.copy(path, copy)
            archive = Path(copy) / "photos.archive"
            if not archive.exists():
                return 0
            with Catalogue.open(archive, write=False) as catalogue:
                return sum(row.kind == Kind.PACK for row in catalogue.staged())

    def act(self, commit: int, when: str, again: float) -> None:
        """A run killed at a commit, one killed within `again` seconds, and one to the end."""
        self.run(commit, when)
        if again:
            self.run(seconds=self._chosen.uniform(again / 3, again))
        self.run()

    def look(self, snapshots: int) -> None:
        """Restore equal, nothing sent twice, nothing unaccounted for."""
        check = Check(self.place, snapshots)
        (self.place.work / "puts.log").rename(self.place.work.with_suffix(".log"))
        with unhurried():
            check.catalogue()
            check.packs()
            check.read_back()
        self.place.work.with_suffix(".log").rename(self.place.work / "puts.log")
        spool = self.place.archive.with_suffix(".spool")
        check.expect(not list(spool.iterdir()), f"left in the spool: {list(spool.iterdir())}")
        check.wrong += self._sent_twice()
        self._report.wrong += [f"{self.place.work}: {what}" for what in check.wrong]
        for way in ("restore", "decrypt"):
            shutil.rmtree(self.place.work / way, ignore_errors=True)

    def _sent_twice(self) -> list[str]:
        """What was moved, or begun, once too often, over all runs."""
        moved: set[str] = set()
        wrong = []
        begun: Counter[str] = Counter()
        this_run: set[str] = set()
        for line in (self.place.work / "puts.log").read_text().splitlines():
            what, _, name = line.partition(" ")
            if what == "run":
                this_run = set()
            elif what == "begun":
                if name in this_run or name in moved:
                    wrong.append(f"{name} was sent twice")
                this_run.add(name)
                begun[name] += 1
            elif name in moved:
                wrong.append(f"{name} was stored twice")
            else:
                moved.add(name)
        there = {path.name for path in self.place.storage.iterdir()}
        if set(begun) != there:
            wrong.append(f"sent and not stored: {sorted(set(begun) ^ there)}")
        return wrong

    def count(self) -> None:
        """Objects and transfers, for the report."""
        lines = (self.place.work / "puts.log").read_text().splitlines()
        begun = sum(line.startswith("begun") for line in lines)
        objects = len(list(self.place.storage.iterdir()))
        self._report.objects += objects
        self._report.cut += begun - objects


def campaign(folder: Path, kills: int, seed: int = 1) -> Report:
    """At least so many kills, evenly over all commits of a start and of a resume."""
    report, chosen = Report(), random.Random(seed)
    measured = Life(folder / "measured", report, chosen)
    counts = [measured.run()]
    measured.change()
    counts.append(measured.run())
    measured.look(2)
    shutil.rmtree(measured.place.work)
    # Two at commits, and one at a random moment, which may come after the end.
    lives = -(-kills * 2 // 5)
    for number in range(lives):
        life = Life(folder / f"life{number}", report, chosen)
        for snapshot, commits in enumerate(counts, 1):
            # Evenly from the first commit to the last, each before and after it in turn.
            at = number * 2 * commits // lives
            again = measured.seconds if (number + snapshot) % 2 else 0
            life.act(at // 2 + 1, ("before", "after")[at % 2], again)
            if report.wrong:
                return report
            life.look(snapshot)
            if snapshot == 1:
                life.change()
        life.count()
        if report.wrong:
            return report
        shutil.rmtree(life.place.work)
    return report


def main(kills: int) -> int:
    """Run a campaign; prints what came out."""
    with tempfile.TemporaryDirectory(prefix="kills-") as folder:
        report = campaign(Path(folder), kills)
    print(report.text())
    print(json.dumps({"in_flight": sorted(Counter(report.in_flight).items())}))
    return bool(report.wrong)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
