"""The ini file: settings as text that explains them, and back."""

from __future__ import annotations

import configparser
import re
from importlib import resources
from pathlib import Path
from urllib.parse import urlsplit

from pyarchiver.cas.figures import ini_section, profile_of
from pyarchiver.cas.settings import (
    CREDENTIALS,
    DEFAULTS,
    NAMED,
    SECTIONS,
    Settings,
    check_name,
    full_url,
    parse,
)
from pyarchiver.cas.units import size_text
from pyarchiver.formats.errors import SettingsError

KEPT = "(as kept in the .archive)"
"""Stands for a credential, which is not shown, and for a source that a line cannot hold."""
# What to give where a line cannot hold a path.
_INSTEAD = {
    "source": "use a link to it",
    "url": "write it as file:///folder, with %20 for a space and the like",
}
_SIZES = ("pack size", "chunk size", "upload limit", "download limit")


def template(
    name: str | None, source: str | None, storage: str | None, profile: str | None = None
) -> str:
    """The text of a new ini file; what is not given stands there as a placeholder.

    With the name of a profile, all its figures follow, to be edited. SettingsError where it is
    none, or is not for the storage's URL; and for what `read_ini` would not give back as it is.
    """
    options = {"name": name, "source": source, "url": storage, "profile": profile}
    given = {setting: value for setting, value in options.items() if value}
    if name:
        check_name(name)
    for setting in _INSTEAD:
        _check_line(setting, given.get(setting, ""))
    scheme = urlsplit(full_url(storage, Path("/"))).scheme if storage else ""
    text = _filled(given)
    if not profile:
        return text
    return text + "\n" + ini_section(profile_of(profile, scheme, {}))


def _check_line(setting: str, value: str) -> None:
    """Raise SettingsError for a value that a line of an ini file cannot hold."""
    if wrong := _unfit(value):
        raise SettingsError(
            f"setting {setting!r}: {value!r} {wrong}, which an ini file cannot hold: "
            f"{_INSTEAD[setting]}"
        )


def _unfit(value: str) -> str:
    """Why a line of an ini file cannot hold a value; empty where it can."""
    if value != value.strip():
        return "begins or ends with white space"
    if "\n" in value or "\r" in value:
        return "has a line break"
    if any("\ud800" <= letter <= "\udfff" for letter in value):
        return "is not UTF-8"
    return ""


def ini_text(settings: Settings) -> str:
    """The settings of an archive as an ini file, with all figures and without credentials."""
    values = settings.values()
    values.update({name: size_text(int(values[name])) for name in _SIZES if values[name]})
    values.update({name: KEPT for name in CREDENTIALS if values.get(name)})
    if _unfit(values["source"]):
        values["source"] = KEPT
    values["exclude"] = "\n    ".join(settings.exclude)
    return _filled(values) + "\n" + ini_section(settings.profile)


def _filled(values: dict[str, str]) -> str:
    """The template with some settings, by the names that they have in the .archive."""
    lines, section = [], ""
    for line in (
        resources.files(__package__).joinpath("template.ini").read_text("utf-8").splitlines()
    ):
        if line.startswith("["):
            section = line.strip("[]")
        name = line.partition(" =")[0]
        key = name if section in SECTIONS else f"{section}.{name}"
        lines.append(f"{name} = {values[key]}".rstrip() if key in values else line)
    return "\n".join(lines) + "\n"


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
    values = dict(DEFAULTS)
    for section in parser.sections():
        known = SECTIONS.get(section) or NAMED.get(section)
        if known is None:
            raise SettingsError(
                f"{path}{line_of(path, f'[{section}]')}: unknown section [{section}]"
            )
        for name, value in parser.items(section):
            if name not in known:
                raise SettingsError(
                    f"{path}{line_of(path, name)}: unknown setting {name!r} in [{section}]"
                )
            values[name if section in SECTIONS else f"{section}.{name}"] = value.strip()
    try:
        return parse(values, path.resolve().parent)
    except SettingsError as error:
        setting = str(error).split("'")[1] if "'" in str(error) else ""
        raise SettingsError(f"{path}{line_of(path, setting)}: {error}") from None


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


def line_of(path: Path, begin: str) -> str:
    """Which line begins so, as messages say it after the path; empty where none does."""
    for number, line in enumerate(path.read_text("utf-8-sig").splitlines(), 1):
        if begin and line.strip().lower().startswith(begin.lower()):
            return f", line {number}"
    return ""


def located(location: str, archive: Path, ini: Path | None) -> Settings:
    """Settings for the storage at a URL or in a folder, before those of its archive are known.

    All but the location comes from the ini file, if there is one. What nobody knows yet has values
    that lead nowhere.
    """
    if ini is not None:
        values = read_ini(ini).values()
    else:
        name = re.sub(r"[^A-Za-z0-9._-]", "_", archive.stem).lstrip(".-") or "recovered"
        values = {**DEFAULTS, "name": name[:100], "source": "/source-not-known"}
    return parse({**values, "url": full_url(location, Path.cwd())}, Path("/"))
