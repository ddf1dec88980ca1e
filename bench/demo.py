"""The main job on real files: Python's own standard library into a cold store, and back.

    python bench/demo.py [FOLDER]

Archives, changes some files, resumes, restores, throws the .archive away, decrypts with only
the packs and the password, and compares everything byte for byte. Says what it did and how fast.
"""

from __future__ import annotations

import filecmp
import os
import shutil
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

PASSWORD = "demo: seven words are better than one"


def say(text: str) -> None:
    """One line of the story."""
    print(f"\n\033[1m{text}\033[0m" if sys.stdout.isatty() else f"\n{text}", flush=True)


def run(*arguments: str | Path) -> None:
    """A pyarchiver command, shown as a user would type it."""
    program = Path(sys.executable).with_name("pyarchiver")
    print("$ pyarchiver", *arguments, flush=True)
    environment = {**os.environ, "PYARCHIVER_PASSWORD": PASSWORD}
    subprocess.run([program, *map(str, arguments)], env=environment, check=True)


def change(source: Path) -> None:
    """Edit, insert at the front, rename, move, delete, add and touch."""
    with (source / "argparse.py").open("a") as file:
        file.write("# edited\n")
    ast = source / "ast.py"
    ast.write_bytes(b"# inserted at the front\n" + ast.read_bytes())
    (source / "bisect.py").rename(source / "bisect_renamed.py")
    (source / "json").rename(source / "moved_json")
    (source / "calendar.py").unlink()
    (source / "added.bin").write_bytes(os.urandom(3_000_000))
    (source / "copy.py").touch()


def differences(one: Path, other: Path) -> list[str]:
    """Every path that is not the same in both trees: contents, types, modes, times."""
    found = []
    names = {path.relative_to(tree) for tree in (one, other) for path in tree.rglob("*")}
    for name in sorted(names):
        a, b = one / name, other / name
        if not os.path.lexists(a) or not os.path.lexists(b):
            found.append(f"{name}: only in one")
        elif a.is_symlink() or b.is_symlink():
            if not (a.is_symlink() and b.is_symlink() and a.readlink() == b.readlink()):
                found.append(f"{name}: links differ")
        elif (a.stat().st_mode, a.stat().st_mtime_ns) != (b.stat().st_mode, b.stat().st_mtime_ns):
            found.append(f"{name}: mode or time differs")
        elif a.is_file() and not filecmp.cmp(a, b, shallow=False):
            found.append(f"{name}: contents differ")
    return found


def compare(one: Path, other: Path) -> None:
    """Fail unless two trees are equal."""
    found = differences(one, other)
    count = sum(1 for path in one.rglob("*") if path.is_file())
    if found:
        sys.exit("\n".join(["not equal:", *found[:20]]))
    print(f"compared {count:,} files of {one.name} and {other.name}: equal, byte for byte")


def main() -> None:
    """Tell the story."""
    base = Path(sys.argv[1] if len(sys.argv) > 1 else "demo").absolute()
    shutil.rmtree(base, ignore_errors=True)
    base.mkdir(parents=True)
    source, before = base / "source", base / "source-before"
    library = Path(sysconfig.get_path("stdlib"))
    say(f"A real tree: {library}")
    ignore = shutil.ignore_patterns("site-packages", "dist-packages")
    shutil.copytree(library, source, symlinks=True, ignore=ignore)
    subprocess.run(["cp", "-a", source, before], check=True)

    say("1. Archive it to a local cold store")
    began = time.perf_counter()
    run("init", base / "demo.ini", "--name", "demo", "--source", source, "--storage", base / "cold")
    run("start", base / "demo.ini")

    say("2. Change some files, and add what is new")
    change(source)
    run("resume", base / "demo.archive")

    say("3. Restore: the source as it is, and as it was")
    run("restore", base / "demo.archive", base / "restored", "--exact")
    compare(source, base / "restored")
    run("restore", base / "demo.archive", base / "restored-before", "--snapshot", "1")
    compare(before, base / "restored-before")

    say("4. Lose the .archive; decrypt with only the packs and the password")
    run("restore", base / "demo.archive", base / "everything")
    (base / "demo.archive").unlink()
    packs = base / "packs"
    packs.mkdir()
    for pack in (base / "cold").glob("*-p-*"):
        shutil.copy(pack, packs)
    run("decrypt", packs, base / "decrypted")
    compare(base / "everything", base / "decrypted")

    say(f"All of it took {time.perf_counter() - began:.1f} s; the files are in {base}")


if __name__ == "__main__":
    main()
