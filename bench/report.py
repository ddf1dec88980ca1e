"""The results of a run: as values, as a Markdown table for the README, and as an SVG chart."""

from __future__ import annotations

import json
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

from tools import OPERATIONS

_COLOURS = ("#2a6f97", "#c9ada7", "#9a8c98", "#83c5be", "#b5838d", "#d4a373", "#adb5bd")
_RATED = ("first", "restore", "decrypt")


@dataclass(frozen=True, slots=True)
class Record:
    """One operation by one tool: `files` of `size` bytes, in so many `objects` of `stored` bytes.

    `wall` and `cpu` in seconds, `peak` memory of the process tree in bytes.
    """

    corpus: str
    round: int
    tool: str
    operation: str
    files: int
    size: int
    objects: int
    stored: int
    wall: float
    cpu: float
    peak: int


@dataclass(frozen=True, slots=True)
class Results:
    """A whole run: when, on what machine, with which versions, and how fast its parts are."""

    date: str
    machine: str
    versions: dict[str, str]
    primitives: dict[str, float]
    records: list[Record]


class Medians:
    """Medians over the rounds, by corpus, tool and operation."""

    def __init__(self, records: list[Record]) -> None:
        self._records = records

    def names(self, field: str) -> list[str]:
        """The values of a field, in the order in which they first appear."""
        return list(dict.fromkeys(getattr(record, field) for record in self._records))

    def of(self, corpus: str, tool: str, operation: str, field: str) -> float | None:
        """The median of a figure; None where there is none."""
        found = [
            getattr(r, field)
            for r in self._records
            if (r.corpus, r.tool, r.operation) == (corpus, tool, operation)
        ]
        return statistics.median(found) if found else None

    def growth(self, corpus: str, tool: str) -> float | None:
        """What was stored for the edited files, besides what was there of them, in bytes."""
        now = self.of(corpus, tool, "edited", "stored")
        was = self.of(corpus, tool, "changed", "stored")
        return None if now is None or was is None else now - was


def table(results: Results) -> str:
    """Markdown: speeds in MB/s of source, times in seconds, CPU seconds, memory and sizes."""
    medians = Medians(results.records)
    parts = [f"{results.date}, {results.machine}; " + "; ".join(results.versions.values())]
    for corpus in medians.names("corpus"):
        parts += ["", *_corpus(medians, corpus)]
    parts += ["", *_primitives(results)]
    return "\n".join(parts) + "\n"


def _corpus(medians: Medians, corpus: str) -> list[str]:
    files = medians.of(corpus, "pyarchiver", "first", "files") or 0
    size = medians.of(corpus, "pyarchiver", "first", "size") or 0
    heads = [f"{corpus}: {files:,.0f} files, {size / 1e6:,.0f} MB", "first", "CPU", "stored"]
    heads += ["objects", "unchanged", "1 % changed", "restore", "one file", "decrypt", "memory"]
    edited = medians.of(corpus, "pyarchiver", "edited", "wall") is not None
    heads += ["edited", "growth"] if edited else []
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for tool in medians.names("tool"):

        def cell(operation: str, tool: str = tool) -> str:
            wall = medians.of(corpus, tool, operation, "wall")
            if wall is None:
                return "-"
            return f"{size / wall / 1e6:,.0f} MB/s" if operation in _RATED else f"{wall:.2f} s"

        cpu = medians.of(corpus, tool, "first", "cpu") or 0
        stored = medians.of(corpus, tool, "first", "stored") or 0
        objects = medians.of(corpus, tool, "first", "objects") or 0
        peak = max(medians.of(corpus, tool, o, "peak") or 0 for o in OPERATIONS)
        cells = [tool, cell("first"), f"{cpu:.1f} s", f"{stored / 1e6:,.1f} MB", f"{objects:,.0f}"]
        cells += [cell(o) for o in ("unchanged", "changed", "restore", "one", "decrypt")]
        cells += [f"{peak / 1e6:,.0f} MB"]
        if edited:
            growth = medians.growth(corpus, tool)
            cells += [cell("edited"), "-" if growth is None else f"{100 * growth / size:.1f} %"]
        lines.append("| " + " | ".join(cells) + " |")
    return [*lines, *_ratios(medians, corpus)]


def _ratios(medians: Medians, corpus: str) -> list[str]:
    told = []
    for rival in ("restic", "cp -a"):
        ratios = []
        for operation in OPERATIONS:
            ours = medians.of(corpus, "pyarchiver", operation, "wall")
            theirs = medians.of(corpus, rival, operation, "wall")
            if ours and theirs:
                ratios.append(f"{operation} {theirs / ours:.2f}x")
        stored = medians.of(corpus, rival, "first", "stored")
        ours = medians.of(corpus, "pyarchiver", "first", "stored")
        if ours and stored:
            ratios.append(f"stored {ours / stored:.2f}x")
        if ratios:
            told += ["", f"Against {rival}: " + ", ".join(ratios) + "."]
    return told


def _primitives(results: Results) -> list[str]:
    lines = ["| primitive, one core | MB/s |", "|---|---|"]
    return lines + [f"| {name} | {speed:,.0f} |" for name, speed in results.primitives.items()]


def chart(results: Results) -> str:
    """SVG: a bar for each tool's speed, in a panel for each corpus and operation."""
    medians = Medians(results.records)
    tools = medians.names("tool")
    panels = [
        (f"{corpus}, {operation}", [_speed(medians, corpus, t, operation) for t in tools])
        for corpus in medians.names("corpus")
        for operation in ("first", "restore")
    ]
    row, width, left = 18, 760, 110
    height_of = row * (len(tools) + 2)
    body = []
    for number, (title, speeds) in enumerate(panels):
        top = number * height_of + row
        body.append(f'<text x="4" y="{top}" font-weight="bold">{escape(title)} (MB/s)</text>')
        longest = max([*filter(None, speeds), 1e-9])
        for at, (tool, speed) in enumerate(zip(tools, speeds, strict=True), 1):
            y = top + at * row
            body.append(f'<text x="{left - 6}" y="{y}" text-anchor="end">{escape(tool)}</text>')
            if speed is not None:
                bar = max(1, round((width - left - 80) * speed / longest))
                colour = _COLOURS[(at - 1) % len(_COLOURS)]
                body.append(
                    f'<rect x="{left}" y="{y - 12}" width="{bar}" height="14" fill="{colour}"/>'
                    f'<text x="{left + bar + 6}" y="{y}">{speed:,.0f}</text>'
                )
    height = height_of * len(panels) + row
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}"'
        ' font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="#fff"/>'
        + "\n".join(body)
        + "</svg>\n"
    )


def _speed(medians: Medians, corpus: str, tool: str, operation: str) -> float | None:
    wall = medians.of(corpus, tool, operation, "wall")
    size = medians.of(corpus, tool, operation, "size")
    return size / wall / 1e6 if wall and size else None


def write(results: Results, folder: Path) -> None:
    """table.md and chart.svg."""
    (folder / "table.md").write_text(table(results))
    (folder / "chart.svg").write_text(chart(results))


def read(path: Path) -> Results:
    """Results kept as JSON."""
    kept = json.loads(path.read_text())
    return Results(**{**kept, "records": [Record(**record) for record in kept["records"]]})


if __name__ == "__main__":
    write(read(Path(sys.argv[1])), Path(sys.argv[1]).parent)
