"""How listings show paths, files, times and sizes."""

from __future__ import annotations

import stat
from base64 import b64encode
from datetime import datetime
from typing import Any

from pyarchiver.cas.progress import show
from pyarchiver.formats.entry import EntryKind, Node

_TYPES = {
    EntryKind.FILE: stat.S_IFREG,
    EntryKind.FOLDER: stat.S_IFDIR,
    EntryKind.SYMLINK: stat.S_IFLNK,
}


def time_text(nanoseconds: int) -> str:
    """A time as the local clock shows it, to the second; ns since 1970 where no calendar has it."""
    try:
        return f"{datetime.fromtimestamp(nanoseconds // 10**9):%Y-%m-%d %H:%M:%S}"
    except (ValueError, OverflowError, OSError):
        return f"{nanoseconds} ns"


def path_fields(path: bytes) -> dict[str, Any]:
    """A path for programs: `path` as it is shown, and `path_base64` where that loses something."""
    shown = show(path)
    exact = shown.encode("utf-8", "surrogateescape") == (path or b".")
    return {"path": shown} if exact else {"path": shown, "path_base64": b64encode(path).decode()}


def node_fields(node: Node) -> dict[str, Any]:
    """What stands at a path, for programs; `mtime_ns` since 1970."""
    fields: dict[str, Any] = {
        "kind": node.kind.name.lower(), "mode": node.mode, "mtime_ns": node.mtime,
        "uid": node.uid, "gid": node.gid, "user": node.user, "group": node.group,
    }  # fmt: skip
    if node.kind == EntryKind.FILE:
        fields["size"] = node.size
    if node.kind == EntryKind.SYMLINK:
        fields["link"] = show(node.link)
    return fields


def long_text(path: bytes, node: Node) -> str:
    """A line as `ls -l` has it."""
    mode = stat.filemode(_TYPES[node.kind] | node.mode)
    owner, group = node.user or str(node.uid), node.group or str(node.gid)
    link = f" -> {show(node.link)}" if node.kind == EntryKind.SYMLINK else ""
    return f"{mode} {owner:8} {group:8} {node.size:>14,} {time_text(node.mtime)} {show(path)}{link}"
