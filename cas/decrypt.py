"""Decrypt: a folder of objects and a secret, nothing else, give back every file they hold."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

from pyarchiver.cas.database import is_catalogue
from pyarchiver.cas.folder import ObjectFolder
from pyarchiver.cas.planner import Request, RestoreResult
from pyarchiver.cas.progress import Observer
from pyarchiver.cas.readback import refuse_among_objects
from pyarchiver.cas.rebuild import rebuild
from pyarchiver.cas.restore import restore
from pyarchiver.cas.unlock import Keyring, Secret
from pyarchiver.formats.errors import SourceError


def decrypt(
    source: Path, destination: Path, secret: Secret, request: Request, observer: Observer
) -> RestoreResult:
    """Restore what the objects in `source` (a folder, or one object) hold.

    A catalogue is rebuilt in a private temporary folder, and then restored from as ever.
    Raises PasswordError or CodeError where the secret opens none of the objects, SourceError where
    `source` is an .archive, SettingsError where `destination` lies in it.
    """
    if source.is_file() and os.access(source, os.R_OK) and is_catalogue(source):
        raise SourceError(
            f"{source} is a catalogue, not an object: pyarchiver restore {source} {destination}"
        )
    refuse_among_objects(destination, source if source.is_dir() else None)
    with (
        contextlib.closing(ObjectFolder(source)) as folder,
        tempfile.TemporaryDirectory(prefix="pyarchiver-") as private,
    ):
        catalogue, keys = rebuild(
            folder, Keyring(secret), Path(private) / "rebuilt.archive", observer
        )
        with catalogue:
            return restore(catalogue, folder, keys, destination, request, observer)
