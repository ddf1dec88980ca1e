"""Writes docs/tour.md: what a first hour with the program looks like, as it really printed.

python bench/tour.py [--check]

Every command runs on a terminal of its own and is answered by hand, so to say. With --check the
tour is taken again, and compared with the document apart from what differs each time.
"""

from __future__ import annotations

import hashlib
import os
import pty
import re
import shutil
import sys
import tempfile
import textwrap
from pathlib import Path

TARGET = Path(__file__).parents[1] / "docs" / "tour.md"
PROGRAM = Path(sys.executable).with_name("pyarchiver")
PASSWORD = "a Lighthouse keeps 9 marbles"
PROMPT = re.compile(r"(password|password again|[^\n]*random words\)): $")
WHERE = "/home/ada"

HEAD = """# A tour

Taken by `make tour` on a terminal, and kept here as it printed. The password is typed at the
prompts, which do not show it.
"""
# (title, what is said before, the commands)
STEPS = [
    ("Settings",
     "Some photos, and a disk to archive them to. `init` writes an ini file that explains every "
     "setting; here three of them are given at once.",
     ["find Photos -type f | sort",
      "pyarchiver init photos.ini --name photos --source Photos --storage cold",
      "grep -v '^#' photos.ini | grep ' = ' | head -4"]),
    ("Archive",
     "`start` asks for a password, shows the recovery code once, and archives. It is the only "
     "time that a password is needed for archiving.",
     ["pyarchiver start photos.ini"]),
    ("Add photos",
     "Later there are new photos, and one is gone. `diff` tells what a resume would archive.",
     ["cp -p card/*.CR3 Photos/2024-06/", "rm Photos/2023-10/IMG_0012.CR3",
      "pyarchiver diff photos.archive", "pyarchiver resume photos.archive"]),
    ("See what is there",
     "What is in the archive, and where.",
     ["pyarchiver status photos.archive", "pyarchiver list photos.archive --deleted",
      "pyarchiver find photos.archive 'IMG_04*.CR3' --larger 400KB"]),
    ("Get it back",
     "Everything back: the source as it is, and the photo that was deleted from it.",
     ["pyarchiver restore photos.archive restored", "diff -r Photos restored"]),
    ("With the packs and the password alone",
     "The worst day: the computer and `photos.archive` are gone. What is left are the objects, "
     "and the password.",
     ["rm photos.archive", "ls cold", "pyarchiver decrypt cold decrypted",
      "diff -r restored decrypted && echo the same"]),
]  # fmt: skip


def make_photos(home: Path) -> None:
    """Files that do not shrink, as photos, with their sidecars, and of a modest age."""
    for name, size in (
        ("Photos/2023-10/IMG_0012.CR3", 700_000), ("Photos/2023-10/IMG_0013.CR3", 650_000),
        ("Photos/2024-06/IMG_0401.CR3", 720_000), ("card/IMG_0402.CR3", 690_000),
        ("card/IMG_0403.CR3", 300_000),
    ):  # fmt: skip
        path = home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(hashlib.shake_128(name.encode()).digest(size))
        os.utime(path, (1_700_000_000, 1_700_000_000))
    sidecar = home / "Photos/2024-06/IMG_0401.xmp"
    sidecar.write_text("<x:xmpmeta>five stars</x:xmpmeta>\n" * 20)
    os.utime(sidecar, (1_700_000_000, 1_700_000_000))


def run(command: str, home: Path) -> str:
    """What a command prints on a terminal; questions for the password are answered."""
    environment = {
        "PATH": f"{PROGRAM.parent}:{os.environ['PATH']}", "HOME": str(home), "LANG": "C.UTF-8",
        "TERM": "dumb", "COLUMNS": "100", "NO_COLOR": "1", "LC_ALL": "C.UTF-8",
    }  # fmt: skip
    child, master = pty.fork()
    if not child:
        os.chdir(home)
        os.execve("/bin/sh", ["sh", "-c", command], environment)
    text, answered = "", 0
    while True:
        try:
            data = os.read(master, 1 << 16)
        except OSError:
            break
        text += data.decode("utf-8", "replace").replace("\r", "")
        if PROMPT.search(text, answered):
            answered = len(text)
            os.write(master, f"{PASSWORD}\n".encode())
        if not data:
            break
    os.close(master)
    os.waitpid(child, 0)
    return text.replace(str(home), WHERE)


def tour() -> str:
    """The text of the document."""
    parts = [HEAD]
    home = Path(tempfile.mkdtemp(prefix="tour-"))
    try:
        make_photos(home)
        for title, words, commands in STEPS:
            said = [f"$ {command}\n{run(command, home)}".rstrip() for command in commands]
            words = textwrap.fill(words, 100)
            parts.append("\n".join([f"## {title}", "", words, "", "```console", *said, "```", ""]))
    finally:
        shutil.rmtree(home)
    return "\n".join(parts)


def lasting(text: str) -> list[str]:
    """The lines without what differs each time: codes, ids, figures, and how wide they are."""
    text = re.sub(r"\b([0-9A-Z]{4}-){7}[0-9A-Z]{4}\b", "CODE", text)
    text = re.sub(r"\b[0-9a-f]{12,}\b", "ID", text)
    text = re.sub(r"\d+([.,:]\d+)*( [kMG]?B\b)?", "N", text)
    return [" ".join(line.split()) for line in text.splitlines()]


def main() -> None:
    """Write the tour, or with --check fail where it is not what happens now."""
    text = tour()
    if "--check" not in sys.argv:
        TARGET.write_text(text, "utf-8")
    elif lasting(TARGET.read_text("utf-8")) != lasting(text):
        import difflib

        changes = difflib.unified_diff(
            lasting(TARGET.read_text("utf-8")), lasting(text), "docs/tour.md", "now", lineterm=""
        )
        sys.exit("\n".join([*changes, f"{TARGET} is out of date: make tour"]))


if __name__ == "__main__":
    main()
