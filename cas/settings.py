"""Settings of an archive: from an ini file (ini.py), then kept in the .archive."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from pyarchiver.cas.figures import FIGURES, PROFILES, edited, profile_of
from pyarchiver.cas.profiles import Profile
from pyarchiver.cas.units import parse_size
from pyarchiver.formats.aead import SUITES
from pyarchiver.formats.errors import SettingsError, UnsupportedError
from pyarchiver.formats.padme import padme_below

if TYPE_CHECKING:
    from pyarchiver.cas.catalogue import Catalogue

PLACEHOLDER = "CHANGE-ME"
# Settings of one kind of storage, by the scheme of its URL, and their defaults.
OPTIONS: dict[str, dict[str, str]] = {
    "sftp": {
        "login": "key",
        "key": "",
        "password": "",
        "known hosts": "",
        "new hosts": "refuse",
        "client": "auto",
        "uploads": "3",
    },
    "s3": {"endpoint": "", "region": "", "credentials": "", "addressing": "auto"},
}
# How the URL of each begins.
FORMS = {
    "file": "file:///folder",
    "sftp": "sftp://user@host/folder",
    "s3": "s3://bucket/prefix",
}
# What is kept in the .archive alone, and never in a manifest.
CREDENTIALS = frozenset({"sftp.password"})
SECTIONS: dict[str, Collection[str]] = {
    "archive": ("name", "source", "exclude", "ignore"),
    "storage": ("url", "profile", "spool", "upload limit", "download limit", "kit"),
    "format": ("suite", "pack size", "chunk size", "compression"),
}
# Settings of these are known as section.name: the same name may stand in several.
NAMED: dict[str, Collection[str]] = {"profile": FIGURES, **OPTIONS}
_OPTIONAL = {"exclude", "ignore", "spool", "profile", "upload limit", "download limit", "kit"}
DEFAULTS = {
    "suite": "aegis256",
    "pack size": "232 MiB",
    "chunk size": "512 KiB",
    "compression": "3",
}


@dataclass(frozen=True, slots=True)
class Settings:
    """Checked settings. Sizes in bytes; `source` and `spool` absolute; `url` a full URL.

    `profile`: what the storage can do and charges. `options`: the ini section that is named as the
    URL's scheme. Limits in bytes a second, 0 for none.
    """

    name: str
    source: Path
    url: str
    exclude: tuple[str, ...] = ()
    ignore: frozenset[str] = frozenset()
    spool: Path | None = None
    suite: str = "aegis256"
    pack_size: int = padme_below(232 << 20)
    chunk_size: int = 512 << 10
    compression: int = 3
    profile: Profile = PROFILES["local-disk"]
    options: Mapping[str, str] = field(default_factory=dict)
    upload_limit: int = 0
    download_limit: int = 0
    kit: bool = True

    @property
    def scheme(self) -> str:
        """The kind of storage: file, sftp, s3."""
        return urlsplit(self.url).scheme

    def values(self) -> dict[str, str]:
        """As plain strings, to be kept in the .archive and, `without_credentials`, in manifests."""
        figures = {f"profile.{name}": text for name, text in edited(self.profile).items()}
        options = {f"{self.scheme}.{name}": text for name, text in self.options.items()}
        return {
            "name": self.name,
            "source": str(self.source),
            "url": self.url,
            "exclude": "\n".join(self.exclude),
            "ignore": ", ".join(sorted(self.ignore)),
            "spool": str(self.spool or ""),
            "suite": self.suite,
            "pack size": str(self.pack_size),
            "chunk size": str(self.chunk_size),
            "compression": str(self.compression),
            "profile": self.profile.name,
            "upload limit": str(self.upload_limit or ""),
            "download limit": str(self.download_limit or ""),
            "kit": "yes" if self.kit else "no",
            **figures,
            **options,
        }


def without_credentials(values: Mapping[str, str]) -> dict[str, str]:
    """Settings as manifests have them: they are sealed, and still no place for a password."""
    return {name: value for name, value in values.items() if name not in CREDENTIALS}


def recovered(sealed: Mapping[str, str], given: Settings, *, from_ini: bool) -> dict[str, str]:
    """Settings of a recovered archive: as `sealed` in its manifests, but for where it is.

    What else is known of the storage is `given` too, where an ini file says it or the storage is of
    another kind than it was.
    """
    given_values, kept = given.values(), dict(sealed)
    if from_ini or urlsplit(sealed.get("url", "")).scheme != given.scheme:
        kept = {n: v for n, v in kept.items() if n not in SECTIONS["storage"] and "." not in n}
    else:
        given_values = {n: v for n, v in given_values.items() if "." not in n}
    return {**given_values, **kept, "url": given.url}


def settings_of(catalogue: Catalogue) -> Settings:
    """The settings that an archive was made with."""
    return parse(catalogue.settings, Path("/"))


def parse(values: dict[str, str], base: Path) -> Settings:
    """Settings from plain strings; relative paths start at `base`."""
    for names in SECTIONS.values():
        for name in names:
            value = values.get(name, "")
            if PLACEHOLDER in value or (not value and name not in _OPTIONAL):
                raise SettingsError(f"setting {name!r} is not filled in: give it a value")
    check_name(values["name"])
    try:
        ignore = frozenset(values.get("ignore", "").replace(",", " ").split())
        if ignore - {"ctime", "inode"}:
            raise SettingsError("setting 'ignore' may name ctime and inode only")
        if values["suite"] not in SUITES:
            raise SettingsError(f"setting 'suite' must be one of {', '.join(SUITES)}")
        chunk_size = _size("chunk size", values["chunk size"], 64 << 10, 2 << 20)
        if chunk_size & (chunk_size - 1):
            raise SettingsError("setting 'chunk size' must be a power of two")
        url = full_url(values["url"], base)
        scheme = urlsplit(url).scheme
        return Settings(
            name=values["name"],
            source=_path("source", values["source"], base),
            url=url,
            exclude=tuple(filter(None, values.get("exclude", "").splitlines())),
            ignore=ignore,
            spool=_path("spool", values["spool"], base) if values.get("spool") else None,
            suite=values["suite"],
            pack_size=padme_below(_size("pack size", values["pack size"], 16 << 20, 4 << 30)),
            chunk_size=chunk_size,
            compression=_number("compression", values["compression"], 1, 19),
            profile=profile_of(values.get("profile", ""), scheme, _section("profile", values)),
            options=OPTIONS.get(scheme, {}) | _section(scheme, values),
            upload_limit=_limit("upload limit", values.get("upload limit", "")),
            download_limit=_limit("download limit", values.get("download limit", "")),
            kit=_yes("kit", values.get("kit", "") or "yes"),
        )
    except UnsupportedError as error:
        raise SettingsError(str(error)) from None


def check_name(name: str) -> None:
    """Raise SettingsError unless an archive can be called so."""
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}", name):
        raise SettingsError(
            f"setting 'name': {name!r} should begin with a letter, digit or underscore, and have "
            "only those, dots and hyphens, at most 100"
        )


def _section(section: str, values: dict[str, str]) -> dict[str, str]:
    """The settings of a section whose settings are known as section.name."""
    begin = section + "."
    return {
        name.removeprefix(begin): value for name, value in values.items() if name.startswith(begin)
    }


def _limit(name: str, text: str) -> int:
    return _size(name, text, 1 << 10, 1 << 40) if text else 0


def _yes(name: str, text: str) -> bool:
    if text.lower() not in ("yes", "no"):
        raise SettingsError(f"setting {name!r} must be yes or no")
    return text.lower() == "yes"


def full_url(text: str, base: Path) -> str:
    """A URL as it is, or that of a folder, which may be relative to `base`.

    SettingsError for what begins as a URL and does not go on as one: it would be made a folder.
    """
    # Of one letter is a drive on Windows.
    match = re.match(r"([A-Za-z][A-Za-z0-9+.-]+):(//)?", text)
    if not match:
        return _path("url", text, base).as_uri()
    scheme = match[1].lower()
    if not match[2] or scheme not in FORMS:
        form = FORMS.get(scheme) or " or ".join(FORMS.values())
        raise SettingsError(
            f"setting 'url': {text} should be {form}; a folder of that name is ./{text}"
        )
    try:
        urlsplit(text)
    except ValueError as error:
        raise SettingsError(f"setting 'url': {text}: {str(error).lower()}") from None
    return scheme + text[len(scheme) :]


def _path(name: str, text: str, base: Path) -> Path:
    if not text:
        raise SettingsError(f"setting {name!r} is empty")
    try:
        return base / Path(text).expanduser()
    except RuntimeError as error:
        raise SettingsError(f"setting {name!r}: {error}") from None


def _size(name: str, text: str, low: int, high: int) -> int:
    try:
        size = parse_size(text)
    except SettingsError as error:
        raise SettingsError(f"setting {name!r}: {error}") from None
    if not low <= size <= high:
        raise SettingsError(f"setting {name!r} must be from {low >> 10} KiB to {high >> 10} KiB")
    return size


def _number(name: str, text: str, low: int, high: int) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", text) or not low <= int(text) <= high:
        raise SettingsError(f"setting {name!r} must be a number from {low} to {high}")
    return int(text)
