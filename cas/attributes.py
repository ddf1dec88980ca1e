"""What files carry besides their bytes: owners by name, extended attributes."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType

from pyarchiver.formats.entry import EntryKind, Node

# Not allowed, not known, or (ENOSPC, E2BIG, ERANGE) larger than this file system stores.
_REFUSED = (
    errno.ENOTSUP, errno.EOPNOTSUPP, errno.EPERM, errno.EACCES, errno.ENODATA, errno.EINVAL,
    errno.ENOSPC, errno.E2BIG, errno.ERANGE,
)  # fmt: skip

# Capabilities of a program, labels: like set-id bits, they give rights to whoever runs it.
_PRIVILEGED = (b"security.", b"trusted.")
_SET_ID = 0o6000


def privileges(node: Node) -> list[bytes]:
    """What a node has that gives rights, by name: restored only where it was asked for.

    On a folder the set-group-ID bit says who owns what is made in it, no more.
    """
    found = [name for name in node.xattrs if name.startswith(_PRIVILEGED)]
    if node.mode & _SET_ID and node.kind == EntryKind.FILE:
        found.insert(0, b"set-id bits")
    return found


def without_privileges(node: Node) -> Node:
    """The node without what `privileges` names."""
    if not privileges(node):
        return node
    kept = {name: node.xattrs[name] for name in node.xattrs if not name.startswith(_PRIVILEGED)}
    mode = node.mode & ~_SET_ID if node.kind == EntryKind.FILE else node.mode
    return node._replace(mode=mode, xattrs=kept)


@lru_cache(maxsize=1024)
def owner_names(uid: int, gid: int) -> tuple[str, str]:
    """(user, group) by name, empty where the system has none."""
    try:
        import grp
        import pwd
    except ImportError:
        return "", ""
    user = group = ""
    with contextlib.suppress(KeyError):
        user = pwd.getpwuid(uid).pw_name
    with contextlib.suppress(KeyError):
        group = grp.getgrgid(gid).gr_name
    return user, group


@lru_cache(maxsize=1024)
def owner_ids(uid: int, gid: int, user: str, group: str) -> tuple[int, int]:
    """The ids of an owner on this system: by name where there is one, else by number."""
    try:
        import grp
        import pwd
    except ImportError:
        return uid, gid
    with contextlib.suppress(KeyError):
        uid = pwd.getpwnam(user).pw_uid if user else uid
    with contextlib.suppress(KeyError):
        gid = grp.getgrnam(group).gr_gid if group else gid
    return uid, gid


_NONE: Mapping[bytes, bytes] = MappingProxyType({})


def read_xattrs(target: int | bytes) -> Mapping[bytes, bytes]:
    """Extended attributes of an open file, or of a path itself; unreadable ones are left out."""
    if not hasattr(os, "listxattr"):
        return _NONE
    follow = isinstance(target, int)
    try:
        names = os.listxattr(target, follow_symlinks=follow)
    except OSError:
        return _NONE
    if not names:
        return _NONE
    found = {}
    for name in names:
        with contextlib.suppress(OSError):
            found[os.fsencode(name)] = os.getxattr(target, name, follow_symlinks=follow)
    return found


_ACLS = "system.posix_acl_access", "system.posix_acl_default"


def passes_on_acls(folder: bytes) -> bool:
    """Whether what is made in a folder gets an ACL from it."""
    if not hasattr(os, "getxattr"):
        return False
    with contextlib.suppress(OSError):
        return bool(os.getxattr(folder, _ACLS[1]))
    return False


def drop_acls(target: int | bytes, wanted: Mapping[bytes, bytes]) -> None:
    """Remove the ACLs of an open file, or of a path itself, that are not `wanted`."""
    for name in _ACLS:
        if os.fsencode(name) not in wanted:
            with contextlib.suppress(OSError):
                os.removexattr(target, name, follow_symlinks=isinstance(target, int))


def write_xattrs(target: int | bytes, wanted: Mapping[bytes, bytes]) -> list[bytes]:
    """Set extended attributes; returns the names of those that the system refuses."""
    if not wanted:
        return []
    if not hasattr(os, "setxattr"):
        return list(wanted)
    refused = []
    for name, value in wanted.items():
        try:
            os.setxattr(target, name, value, follow_symlinks=isinstance(target, int))
        except OSError as error:
            if error.errno not in _REFUSED:
                raise
            refused.append(name)
    return refused
