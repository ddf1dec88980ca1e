"""Memory does not grow with the archive: three times the data take no more of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from helpers_cli import PASSWORD, noise, write

PHOTO = 5_000_000
FEW, MANY = 30, 90
# Far below what is archived more, far above what a heap differs from run to run.
GROWTH_MAX = 50_000_000
LIMIT = 300_000_000

RUN = """
import sys
from pathlib import Path
from pyarchiver.cas import archiver, create
from pyarchiver.cas.catalogue import Catalogue
from pyarchiver.cas.planner import Request
from pyarchiver.cas.progress import Quiet
from pyarchiver.cas.restore import restore
from pyarchiver.cas.settings import Settings, settings_of
from pyarchiver.cas.storage import open_storage
from pyarchiver.cas.unlock import unlock
from pyarchiver.formats import keys

keys.ARGON2_OPS, keys.ARGON2_MEMORY = 1, 1 << 20
what, password, source, work = sys.argv[1], sys.argv[2], *map(Path, sys.argv[3:5])
archive = work / "a.archive"
if what == "archive":
    made = Settings("a", source, (work / "store").as_uri(), exclude=tuple(sys.argv[5:]))
    catalogue, _ = create.create(create.check(made, archive), archive, password)
    with catalogue:
        archiver.resume(catalogue, Quiet())
else:
    with Catalogue.open(archive, write=False) as catalogue:
        storage, read_keys = open_storage(settings_of(catalogue)), unlock(catalogue, password)
        restore(catalogue, storage, read_keys, work / "out", Request(), Quiet())
status = Path("/proc/self/status").read_text()
print(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")))
"""


def peak(what: str, source: Path, work: Path, *exclude: str) -> int:
    """Bytes that a run of its own took at the most."""
    work.mkdir(exist_ok=True)
    command = [sys.executable, "-c", RUN, what, PASSWORD, str(source), str(work), *exclude]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return int(done.stdout) * 1024


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_memory_does_not_grow_with_the_archive(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for number in range(MANY):
        folder = source / ("few" if number < FEW else "more")
        write(folder / f"{number}.raw", noise(number, PHOTO))
        for small in range(20):
            write(folder / f"{number}.{small}.xmp", noise((number, small), 2_000))
    few, many = tmp_path / "a", tmp_path / "b"
    for what in ("archive", "restore"):
        less, more = peak(what, source, few, "/more/"), peak(what, source, many)
        assert more - less < GROWTH_MAX, what
        assert more < LIMIT, what
