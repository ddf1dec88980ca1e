"""Times sftp:// storage against OpenSSH's own sftp: the same bytes, the same server, in turns.

    python bench/sftp.py [--size 464] [--rounds 3] [--delays 0,50] [--data FOLDER]

The server is OpenSSH's sshd on loopback, as the tests start it; a delay in ms of the round trip
comes from bench/delay.py. sftp moves one file; the storage the same bytes in objects of 232 MiB, as
an archive has them: sent by its upload processes, with their start, and read as a restore reads.
Both sync what they sent. Seconds mean little on a shared machine, the ratios of one run do.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from pyarchiver.cas.figures import PROFILES
from pyarchiver.cas.sftp import SftpStorage
from pyarchiver.cas.uploads import Uploads
from servers_sftp import Server, sshd

OBJECT = 232 << 20
SEGMENT = (1 << 20) + 32


@contextlib.contextmanager
def delayed(server: Server, delay: int) -> Iterator[Server]:
    """The server behind a line of that round trip."""
    if not delay:
        yield server
        return
    command = [sys.executable, str(Path(__file__).with_name("delay.py")), str(server.port)]
    with subprocess.Popen([*command, str(delay)], stdout=subprocess.PIPE, text=True) as line:
        assert line.stdout is not None
        yield server.at(int(line.stdout.readline()))
        line.terminate()


def by_openssh(server: Server, *lines: str) -> None:
    """Commands of sftp."""
    command = [
        "sftp", "-q", "-b", "-", "-P", str(server.port), "-i", str(server.key),
        "-o", f"UserKnownHostsFile={server.known_hosts}", f"{server.user}@127.0.0.1",
    ]  # fmt: skip
    subprocess.run(command, input="\n".join(lines) + "\n", text=True, check=True,
                   stdout=subprocess.DEVNULL)  # fmt: skip


def cut_up(file: Path, folder: Path) -> dict[str, Path]:
    """The file's bytes as spooled objects."""
    folder.mkdir(exist_ok=True)
    objects: dict[str, Path] = {}
    with file.open("rb") as source:
        while data := source.read(OBJECT):
            name = f"object-{len(objects)}"
            objects[name] = folder / name
            objects[name].write_bytes(data)
    return objects


def send(storage: SftpStorage, objects: dict[str, Path]) -> None:
    """As the courier does."""
    uploads = Uploads(storage)
    for put in [uploads.submit(name, spooled) for name, spooled in objects.items()]:
        put.result()
    uploads.close()


def fetch(storage: SftpStorage, names: list[str], into: Path) -> None:
    """As a restore does: segment after segment, written to a file."""
    buffer = memoryview(bytearray(SEGMENT))
    with into.open("wb", buffering=0) as file:
        for name in names:
            at = 0
            while count := storage.get_into(name, at, buffer):
                file.write(buffer[:count])
                at += count
    storage.close()


def timed(work: Callable[[], None]) -> float:
    """Seconds."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def compare(server: Server, delay: int, file: Path, rounds: int, work: Path) -> None:
    """Medians of both, and their ratio."""
    times: dict[str, list[float]] = {"put": [], "put by sftp": [], "get": [], "get by sftp": []}
    with delayed(server, delay) as there:
        storage = SftpStorage(there.url("objects"), there.options, PROFILES["sftp"])
        storage.prepare()
        whole, back = f"{server.root}/whole", work / "back"
        for _ in range(rounds):
            objects = cut_up(file, work / "spool")
            times["put by sftp"].append(timed(lambda: by_openssh(there, f"put -f {file} {whole}")))
            times["put"].append(timed(lambda: send(storage, objects)))  # noqa: B023
            times["get by sftp"].append(timed(lambda: by_openssh(there, f"get {whole} {back}")))
            times["get"].append(timed(lambda: fetch(storage, [*objects], back)))  # noqa: B023
            for name in objects:
                storage.delete(name)
        storage.close()
    size = file.stat().st_size / 1e6
    for what in ("put", "get"):
        ours, theirs = (size / median(times[name]) for name in (what, f"{what} by sftp"))
        print(
            f"| {delay} ms | {what} | {ours:.0f} MB/s | {theirs:.0f} MB/s | {ours / theirs:.2f} |"
        )


def main() -> None:
    """Prints a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=464, help="MiB")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--delays", default="0,50", help="ms of the round trip")
    parser.add_argument("--data", type=Path, default=Path(tempfile.gettempdir()))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-", dir=options.data) as folder:
        work = Path(folder)
        file = work / "file"
        with file.open("wb") as made:
            for _ in range(options.size):
                made.write(os.urandom(1 << 20))
        print("| round trip | | pyarchiver | sftp | ratio |\n|---|---|---|---|---|")
        with sshd(work / "server") as server:
            for delay in map(int, options.delays.split(",")):
                compare(server, delay, file, options.rounds, work)


if __name__ == "__main__":
    main()
