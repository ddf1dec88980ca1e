"""Settings of an archive: read from an ini file once, kept in the .archive ever after."""

from __future__ import annotations

import configparser
import re
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from pyarchiver.formats.aead import SUITES
from pyarchiver.formats.errors import SettingsError, UnsupportedError
from pyarchiver.formats.padme import padme_below

PLACEHOLDER = "CHANGE-ME"
_UNITS = {
    "": 1, "B": 1, "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30, "TIB": 1 << 40,
    "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
}  # fmt: skip
_SECTIONS = {
    "archive": ("name", "source", "exclude", "ignore"),
    "storage": ("url", "spool"),
    "format": ("suite", "pack size", "chunk size", "compression"),
}
_OPTIONAL = {"exclude", "ignore", "spool"}
_DEFAULTS = {
    "suite": "aegis256",
    "pack size": "232 MiB",
    "chunk size": "512 KiB",
    "compression": "3",
}


@dataclass(frozen=True, slots=True)
class Settings:
    """Checked settings. Sizes in bytes; `source` and `spool` absolute; `url` a full URL."""

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

    def values(self) -> dict[str, str]:
        """As plain strings, to be kept in the .archive and, sealed, in manifests."""
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
        }


def template(name: str | None, source: str | None, storage: str | None) -> str:
    """The text of a new ini file; what is not given stands there as a placeholder."""
    text = resources.files(__package__).joinpath("template.ini").read_text("utf-8")
    for field, value in (("name", name), ("source", source), ("storage", storage)):
        text = text.replace(f"{{{field}}}", value or PLACEHOLDER)
    return text


def read_ini(path: Path) -> Settings:
    """The settings in an ini file; SettingsError names line or setting where one is wrong."""
    parser = configparser.ConfigParser(interpolation=None, empty_lines_in_values=False)
    try:
        with path.open(encoding="utf-8-sig") as file:
            parser.read_file(file)
    except FileNotFoundError:
        raise SettingsError(f"no file {path}: pyarchiver init {path} writes one") from None
    except OSError as error:
        raise SettingsError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SettingsError(f"{path} is not UTF-8 text") from None
    except configparser.Error as error:
        raise SettingsError(f"{path}{_ini_error(error)}") from None
    values = dict(_DEFAULTS)
    for section in parser.sections():
        if section not in _SECTIONS:
            raise SettingsError(f"{path}{_line(path, f'[{section}]')}: unknown section [{section}]")
        for name, value in parser.items(section):
            if name not in _SECTIONS[section]:
                raise SettingsError(
                    f"{path}{_line(path, name)}: unknown setting {name!r} in [{section}]"
                )
            values[name] = value.strip()
    try:
        return parse(values, path.resolve().parent)
    except SettingsError as error:
        setting = str(error).split("'")[1] if "'" in str(error) else ""
        raise SettingsError(f"{path}{_line(path, setting)}: {error}") from None


def _ini_error(error: configparser.Error) -> str:
    """Where and what a line of an ini file has wrong."""
    match error:
        case configparser.MissingSectionHeaderError():
            return f", line {error.lineno}: a setting before the first [section]"
        case configparser.ParsingError():
            number = error.errors[0][0]
            return f", line {number}: neither a [section] nor a line such as name = value"
        case configparser.DuplicateSectionError():
            return f", line {error.lineno}: section [{error.section}] stands there twice"
        case configparser.DuplicateOptionError():
            return f", line {error.lineno}: setting {error.option!r} stands there twice"
    return f": {error.message}"


def _line(path: Path, begin: str) -> str:
    for number, line in enumerate(path.read_text("utf-8-sig").splitlines(), 1):
        if begin and line.strip().lower().startswith(begin.lower()):
            return f", line {number}"
    return ""


def parse(values: dict[str, str], base: Path) -> Settings:
    """Settings from plain strings; relative paths start at `base`."""
    for names in _SECTIONS.values():
        for name in names:
            value = values.get(name, "")
            if PLACEHOLDER in value or (not value and name not in _OPTIONAL):
                raise SettingsError(f"setting {name!r} is not filled in: give it a value")
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}", values["name"]):
        raise SettingsError(
            "setting 'name' may have letters, digits, dot, hyphen and underscore only"
        )
    try:
        ignore = frozenset(values.get("ignore", "").replace(",", " ").split())
        if ignore - {"ctime", "inode"}:
            raise SettingsError("setting 'ignore' may name ctime and inode only")
        if values["suite"] not in SUITES:
            raise SettingsError(f"setting 'suite' must be one of {', '.join(SUITES)}")
        chunk_size = _size("chunk size", values["chunk size"], 64 << 10, 2 << 20)
        if chunk_size & (chunk_size - 1):
            raise SettingsError("setting 'chunk size' must be a power of two")
        return Settings(
            name=values["name"],
            source=_path("source", values["source"], base),
            url=_url(values["url"], base),
            exclude=tuple(filter(None, values.get("exclude", "").splitlines())),
            ignore=ignore,
            spool=_path("spool", values["spool"], base) if values.get("spool") else None,
            suite=values["suite"],
            pack_size=padme_below(_size("pack size", values["pack size"], 16 << 20, 4 << 30)),
            chunk_size=chunk_size,
            compression=_number("compression", values["compression"], 1, 19),
        )
    except UnsupportedError as error:
        raise SettingsError(str(error)) from None


def _url(text: str, base: Path) -> str:
    if re.match(r"[a-z0-9]+://", text):
        return text
    return _path("url", text, base).as_uri()


def _path(name: str, text: str, base: Path) -> Path:
    try:
        return base / Path(text).expanduser()
    except RuntimeError as error:
        raise SettingsError(f"setting {name!r}: {error}") from None


def parse_size(text: str) -> int:
    """Bytes of a size such as 232 MiB or 10MB; SettingsError where it is none."""
    match = re.fullmatch(r"(\d{1,15})\s*([a-z]*)", text.strip(), re.IGNORECASE)
    unit = _UNITS.get(match[2].upper()) if match else None
    if match is None or unit is None:
        raise SettingsError(f"{text!r} is no size such as 232 MiB or 64 MB")
    return int(match[1]) * unit


def _size(name: str, text: str, low: int, high: int) -> int:
    try:
        size = parse_size(text)
    except SettingsError as error:
        raise SettingsError(f"setting {name!r}: {error}") from None
    if not low <= size <= high:
        raise SettingsError(f"setting {name!r} must be from {low >> 10} KiB to {high >> 10} KiB")
    return size


def _number(name: str, text: str, low: int, high: int) -> int:
    if not text.isascii() or not text.isdigit() or not low <= int(text) <= high:
        raise SettingsError(f"setting {name!r} must be a number from {low} to {high}")
    return int(text)
