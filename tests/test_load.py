"""What a run costs does not grow with what the archive holds, and bench/load.py works."""

from __future__ import annotations

import re
import sqlite3
import subprocess
import sys
from pathlib import Path

from helpers_cli import Place, Sizes, patched, small, write
from pyarchiver.cas import database

ROOT = Path(__file__).resolve().parent.parent
GROWING = {"objects", "versions", "chunks", "indexes", "folders", "checksums", *"ovcf"}
"""Tables with a row for whatever was ever archived. Those of the present tree and of the runs are
read once in a run."""


def statements_of(place: Place) -> set[str]:
    """The statements of a run that finds one file changed."""
    seen: set[str] = set()
    connect = database._connect

    def traced(path: Path, mode: str) -> sqlite3.Connection:
        connection = connect(path, mode)
        connection.set_trace_callback(seen.add)
        return connection

    with patched((database, "_connect", traced)):
        place.resume()
    return {text for text in seen if re.match(r"\s*(SELECT|UPDATE|DELETE|INSERT|REPLACE)", text)}


COUNT_STORED = "SELECT count(*) FROM objects WHERE state = 1"


def test_no_statement_of_a_run_goes_through_all_that_was_archived(tmp_path: Path) -> None:
    """10,000 runs would otherwise take hours, one a little more than the one before."""
    place = Place(tmp_path)
    with small(Sizes()):
        write(place.source / "folder" / "file", b"one")
        write(place.source / "folder" / "gone", b"one")
        place.start(Sizes())
        write(place.source / "folder" / "file", b"other")
        (place.source / "folder" / "gone").unlink()
        statements = statements_of(place)
    assert len(statements) > 20
    connection = sqlite3.connect(place.archive)
    for text in statements:
        for row in connection.execute(f"EXPLAIN QUERY PLAN {text}"):
            # The count follows a listing, which has just gone through all objects anyway.
            if text.endswith("LIMIT 1") or text == COUNT_STORED:
                continue
            scanned = re.match(r"SCAN (\w+)(?! USING (COVERING )?INDEX staged)", row[3])
            assert not scanned or scanned[1] not in GROWING, f"{row[3]}: {text}"
    connection.close()


def test_a_load_works_on_a_small_scale(tmp_path: Path) -> None:
    load = [sys.executable, str(ROOT / "bench" / "load.py"), "--data", str(tmp_path)]
    small_one = [*load, "--only", "snapshots", "--scale", "0.001"]
    done = subprocess.run(small_one, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "| 10 runs |" in done.stdout
    assert not list(tmp_path.iterdir())
