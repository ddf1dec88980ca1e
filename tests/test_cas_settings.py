"""The ini file: the template, what is refused and where it says the fault is, and the bounds."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyarchiver.cas import settings as settings_module
from pyarchiver.cas.figures import FIGURES, PROFILES
from pyarchiver.cas.ini import located, read_ini, template
from pyarchiver.cas.local import LocalStorage
from pyarchiver.cas.settings import PLACEHOLDER, Settings, parse
from pyarchiver.formats.errors import SettingsError
from pyarchiver.formats.padme import padme, padme_below

VALUES = {
    "name": "photos",
    "source": "/pictures",
    "url": "file:///archive",
    "suite": "aegis256",
    "pack size": "232 MiB",
    "chunk size": "512 KiB",
    "compression": "3",
}
INI = """\
[archive]
name = photos
source = pictures
exclude =
    *.tmp
    !keep.tmp
    /cache/
ignore = ctime, inode

[storage]
url = ../packs

[format]
suite = xchacha20poly1305
pack size = 64 MiB
chunk size = 1024 KiB
compression = 19
"""
MIB = 1 << 20


def written(folder: Path, text: str | bytes) -> Path:
    path = folder / "photos.ini"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def changed(**values: str) -> Settings:
    return parse(
        VALUES | {name.replace("_", " "): text for name, text in values.items()}, Path("/")
    )


# Template


def test_template_gives_settings_back(tmp_path: Path) -> None:
    path = written(tmp_path, template("photos", "/some/pictures", "/mnt/disk/packs"))
    assert read_ini(path) == Settings(
        name="photos", source=Path("/some/pictures"), url="file:///mnt/disk/packs"
    )


def test_template_takes_a_url(tmp_path: Path) -> None:
    path = written(tmp_path, template("photos", "pictures", "file:///mnt/a%20b"))
    settings = read_ini(path)
    assert settings.url == "file:///mnt/a%20b"
    assert settings.source == tmp_path / "pictures"


@pytest.mark.parametrize(
    ("given_", "setting", "line"),
    [((None, "s", "t"), "name", "name ="), (("n", None, "t"), "source", "source ="),
     (("n", "s", None), "url", "url =")],
)  # fmt: skip
def test_placeholders_are_refused_by_name_and_line(
    tmp_path: Path, given_: tuple[str | None, ...], setting: str, line: str
) -> None:
    text = template(*given_)
    assert PLACEHOLDER in text
    number = 1 + [row[: len(line)] for row in text.splitlines()].index(line)
    with pytest.raises(SettingsError) as caught:
        read_ini(written(tmp_path, text))
    assert f"photos.ini, line {number}: setting '{setting}' is not filled in" in str(caught.value)


@pytest.mark.parametrize("text", ["%(name)s", "100 % mine", "a = b", "ümläut und mehr", "{name}"])
def test_template_keeps_odd_folders(tmp_path: Path, text: str) -> None:
    settings = read_ini(written(tmp_path, template("n", f"/{text}", f"/packs/{text}")))
    assert settings.source == Path("/" + text)
    assert settings.url == Path("/packs/" + text).as_uri()


# Reading


def test_everything_is_read(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    assert read_ini(written(tmp_path / "inner" / "..", INI)) == Settings(
        name="photos",
        source=tmp_path / "pictures",
        url=(tmp_path / "../packs").as_uri(),
        exclude=("*.tmp", "!keep.tmp", "/cache/"),
        ignore=frozenset({"ctime", "inode"}),
        spool=None,
        suite="xchacha20poly1305",
        pack_size=64 * MIB,
        chunk_size=MIB,
        compression=19,
    )


def test_line_ends_of_windows(tmp_path: Path) -> None:
    plain = read_ini(written(tmp_path, INI))
    assert read_ini(written(tmp_path, INI.replace("\n", "\r\n"))) == plain


def test_byte_order_mark_of_windows(tmp_path: Path) -> None:
    plain = read_ini(written(tmp_path, INI))
    assert read_ini(written(tmp_path, b"\xef\xbb\xbf" + INI.encode())) == plain


def test_spool_is_relative_to_the_file(tmp_path: Path) -> None:
    text = INI.replace("url = ", "spool = spool here\nurl = ")
    assert read_ini(written(tmp_path, text)).spool == tmp_path / "spool here"


def test_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    text = INI.replace("pictures", "~/pictures").replace("../packs", "~/packs\nspool = ~/spool")
    settings = read_ini(written(tmp_path, text))
    assert settings.source == Path("/home/me/pictures")
    assert settings.url == "file:///home/me/packs"
    assert settings.spool == Path("/home/me/spool")


@pytest.mark.parametrize("setting", ["source", "url"])
def test_home_of_nobody(tmp_path: Path, setting: str) -> None:
    old = {"source": "source = pictures", "url": "url = ../packs"}[setting]
    text = INI.replace(old, f"{setting} = ~nobody-of-this-name/x")
    with pytest.raises(SettingsError, match=f"'{setting}'"):
        read_ini(written(tmp_path, text))


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        ("[storage]", "[storrage]", 10, "unknown section [storrage]"),
        ("suite = ", "siute = ", 14, "unknown setting 'siute' in [format]"),
        ("url = ../packs", "name = x\nurl = ../packs", 2, "unknown setting 'name' in [storage]"),
        ("name = photos", "name = pho/tos", 2, "setting 'name': 'pho/tos' should begin"),
        ("name = photos", "name =", 2, "setting 'name' is not filled in"),
        ("source = pictures\n", "", None, "setting 'source' is not filled in"),
        ("name = photos", "name = photos\nname = again", 3, "name"),
        ("[storage]", "[archive]", 10, "archive"),
        ("[archive]\n", "", 1, "section"),
        ("url = ../packs", "url ../packs", 11, ""),
        ("ctime, inode", "ctime, mtime", 8, "'ignore' may name ctime and inode only"),
        ("xchacha20poly1305", "rot13", 14, "'suite' must be one of aegis256, xchacha20poly1305"),
        ("64 MiB", "64 MX", 15, "'pack size': '64 MX' is no size"),
        ("64 MiB", "1 MiB", 15, "'pack size' must be from"),
        ("1024 KiB", "1000 KiB", 16, "'chunk size' must be a power of two"),
        ("= 19", "= 20", 17, "'compression' must be a number from 1 to 19"),
        ("= 19", "= three", 17, "'compression' must be a number"),
    ],
)
def test_faults_name_file_and_line(
    tmp_path: Path, old: str, new: str, line: int | None, words: str
) -> None:
    assert old in INI
    path = written(tmp_path, INI.replace(old, new, 1))
    with pytest.raises(SettingsError) as caught:
        read_ini(path)
    message = str(caught.value)
    assert "photos.ini" in message
    assert words in message
    if line is not None:
        assert f"line {line}" in message.replace("line  ", "line ").replace("line: ", "line ")


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"pyarchiver init .*nothing\.ini"):
        read_ini(tmp_path / "nothing.ini")
    with pytest.raises(SettingsError, match="cannot read"):
        read_ini(tmp_path)
    with pytest.raises(SettingsError, match="UTF-8"):
        read_ini(written(tmp_path, b"[archive]\nname = \xff\n"))
    with pytest.raises(SettingsError, match="'name' is not filled in"):
        read_ini(written(tmp_path, b""))


# Bounds


@pytest.mark.parametrize("name", ["a", "_", "0", "A-b.c_d", "x" * 100, "2019.photos", "n."])
def test_good_names(name: str) -> None:
    assert changed(name=name).name == name


@pytest.mark.parametrize(
    "name", ["", ".", "..", ".a", "-a", "a/b", "a b", "ä", "x" * 101, "a\n", "a\\b", "a:b"]
)
def test_bad_names(name: str) -> None:
    with pytest.raises(SettingsError, match="'name'"):
        changed(name=name)


@pytest.mark.parametrize(
    ("text", "size"),
    [("16 MiB", 16 * MIB), ("16384 KiB", 16 * MIB), ("16777216", 16 * MIB), ("16mib", 16 * MIB),
     ("4 GiB", 4096 * MIB), ("4096MiB", 4096 * MIB), ("232 MiB", 232 * MIB),
     ("100000000", padme_below(100000000))],
)  # fmt: skip
def test_pack_sizes(text: str, size: int) -> None:
    settings = changed(pack_size=text)
    assert settings.pack_size == size == padme(size)


@pytest.mark.parametrize(
    "text", ["16777215", "15 MiB", "4294967297", "5 GiB", "0", "", "MiB", "-1 MiB", "1.5 GiB",
             "1 TiB", "232 MX", "0x10 MiB", "1 GiB 1", "9" * 30]
)  # fmt: skip
def test_impossible_pack_sizes(text: str) -> None:
    with pytest.raises(SettingsError, match="'pack size'"):
        changed(pack_size=text)


@pytest.mark.parametrize("power", range(16, 22))
def test_chunk_sizes(power: int) -> None:
    assert changed(chunk_size=str(1 << power)).chunk_size == 1 << power


@pytest.mark.parametrize("text", ["32 KiB", "65535", "4 MiB", "96 KiB", "2097153", "", "lots"])
def test_impossible_chunk_sizes(text: str) -> None:
    with pytest.raises(SettingsError, match="'chunk size'"):
        changed(chunk_size=text)


@pytest.mark.parametrize("level", [1, 2, 18, 19])
def test_compression(level: int) -> None:
    assert changed(compression=str(level)).compression == level


@pytest.mark.parametrize("text", ["0", "20", "-1", "", "fast", "3.0", "٣", "1_0"])
def test_impossible_compression(text: str) -> None:
    with pytest.raises(SettingsError, match="'compression'"):
        changed(compression=text)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", set()),
        ("ctime", {"ctime"}),
        ("inode ctime", {"ctime", "inode"}),
        (" , inode,", {"inode"}),
    ],
)
def test_ignore(text: str, wanted: set[str]) -> None:
    assert changed(ignore=text).ignore == wanted


@pytest.mark.parametrize("text", ["mtime", "ctime inode size", "CTIME"])
def test_impossible_ignore(text: str) -> None:
    with pytest.raises(SettingsError, match="'ignore'"):
        changed(ignore=text)


def test_defaults_are_those_of_the_template(tmp_path: Path) -> None:
    settings = changed()
    read = read_ini(written(tmp_path, template("photos", "/pictures", "/archive")))
    assert settings == read == Settings("photos", Path("/pictures"), "file:///archive")
    assert settings.pack_size == 232 * MIB


@given(
    st.builds(
        Settings,
        name=st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,20}", fullmatch=True),
        source=st.sampled_from([Path("/"), Path("/a b/c"), Path("/ü/%41"), Path("/x/~y")]),
        url=st.sampled_from(["file:///a%20b", "file:///x"]),
        exclude=st.lists(
            st.sampled_from(["*.tmp", "!keep", "/a b/", "x # y", "[a-z]?", "%(name)s"])
        ).map(tuple),
        ignore=st.frozensets(st.sampled_from(["ctime", "inode"])),
        spool=st.sampled_from([None, Path("/spool"), Path("/with space")]),
        suite=st.sampled_from(["aegis256", "xchacha20poly1305"]),
        pack_size=st.integers(16 << 20, 4 << 30).map(padme_below),
        chunk_size=st.integers(16, 21).map(lambda power: 1 << power),
        compression=st.integers(1, 19),
    )
)
def test_settings_survive_the_archive(settings: Settings) -> None:
    values = settings.values()
    assert all(isinstance(text, str) for text in values.values())
    assert parse(values, Path("/elsewhere")) == settings


# Profiles, options of a storage, limits


@pytest.mark.parametrize("name", PROFILES)
def test_the_figures_of_a_profile_are_shown_and_read_back(tmp_path: Path, name: str) -> None:
    read = read_ini(written(tmp_path, template("photos", "/pictures", "/packs", name)))
    assert read.profile == PROFILES[name]
    assert parse(read.values(), Path("/")) == read
    assert not any(setting.startswith("profile.") for setting in read.values())


def test_every_figure_is_in_the_ini() -> None:
    fields = {figure.field for figure in FIGURES.values()}
    profile = PROFILES["aws-deep-archive"]
    parts: dict[str, Any] = {"": profile, "terms.": profile.terms, "prices.": profile.prices}
    assert fields == {
        begin + field.name for begin, part in parts.items() for field in dataclasses.fields(part)
    } - {"name", "scheme", "terms", "prices"}


@pytest.mark.parametrize(
    ("scheme", "name"), [("file", "local-disk"), ("sftp", "sftp"), ("s3", "s3-standard")]
)
def test_without_a_name_the_scheme_chooses(scheme: str, name: str) -> None:
    assert changed(url=f"{scheme}://host/place").profile == PROFILES[name]


def test_an_edited_figure_replaces_one(tmp_path: Path) -> None:
    text = template("photos", "/pictures", "/packs", "aws-deep-archive")
    text = text.replace("thaw window = 7 d", "thaw window = 36 h")
    text = text.replace("price of thaw = 0.0025", "price of thaw =")
    read = read_ini(written(tmp_path, text))
    known = PROFILES["aws-deep-archive"]
    assert read.profile.terms == dataclasses.replace(known.terms, window=36 * 3600.0)
    assert read.profile.terms.days == 2
    assert read.profile.prices == dataclasses.replace(known.prices, thaw=None)
    assert parse(read.values(), Path("/")) == read
    assert read.values()["profile.thaw window"] == "36 h"


@pytest.mark.parametrize(
    ("line", "bad"),
    [("rename = no", "rename = perhaps"), ("thaw = request", "thaw = magic"),
     ("thaw delay = 2 d", "thaw delay = soon"), ("minimum days = 180", "minimum days = half"),
     ("price of thaw = 0.0025", "price of thaw = cheap"),
     ("download rate = 10 MB", "download rate = 0 MB"),
     ("thaw window = 7 d", "thaw window = 0 s"), ("thaw poll = 15 min", "thaw poll = 0 s"),
     ("profile = aws", "profile = gcp")],
)  # fmt: skip
def test_a_wrong_figure_is_named_with_its_line(tmp_path: Path, line: str, bad: str) -> None:
    text = template("photos", "/pictures", "/packs", "aws-deep-archive")
    assert line in text
    path = written(tmp_path, text.replace(line, bad))
    number = next(n for n, row in enumerate(path.read_text().splitlines(), 1) if bad in row)
    with pytest.raises(SettingsError, match=f"line {number}: setting '{bad.split(' =')[0]}'"):
        read_ini(path)


def test_an_unknown_figure_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"unknown setting 'thaw speed' in \[profile\]"):
        read_ini(written(tmp_path, INI + "\n[profile]\nthaw speed = high\n"))


def test_an_unknown_profile_is_refused() -> None:
    with pytest.raises(SettingsError, match="'profile' must be one of"):
        template("photos", "/pictures", "/packs", "nowhere")


@pytest.mark.parametrize(
    ("profile", "url"),
    [("aws-deep-archive", "sftp://host/packs"), ("ovh-cloud-archive", "s3://bucket/packs"),
     ("local-disk", "sftp://host/packs"), ("s3-standard", "sftp://host/packs")],
)  # fmt: skip
def test_a_profile_of_another_kind_of_url_is_refused(
    tmp_path: Path, profile: str, url: str
) -> None:
    text = template("photos", "/pictures", "/packs").replace("profile =", f"profile = {profile}")
    path = written(tmp_path, text.replace("url = /packs", f"url = {url}"))
    number = 1 + path.read_text().splitlines().index(f"profile = {profile}")
    with pytest.raises(SettingsError) as caught:
        read_ini(path)
    scheme, kind = url.partition(":")[0], PROFILES[profile].scheme
    assert f"photos.ini, line {number}: setting 'profile': {profile} is for {kind}://" in str(
        caught.value
    )
    assert f"'url' begins with {scheme}://" in str(caught.value)
    with pytest.raises(SettingsError, match=f"{profile} is for {kind}://"):
        template("photos", "/pictures", url, profile)


def test_a_folder_may_be_a_mount_of_anything() -> None:
    for name in PROFILES:
        assert changed(profile=name).profile == PROFILES[name]


def test_limits() -> None:
    settings = changed(upload_limit="5 MB", download_limit="64 KiB")
    assert (settings.upload_limit, settings.download_limit) == (5_000_000, 65_536)
    assert parse(settings.values(), Path("/")) == settings
    assert (changed().upload_limit, changed().download_limit) == (0, 0)
    with pytest.raises(SettingsError, match="'upload limit'"):
        changed(upload_limit="fast")


def test_options_of_the_storage_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(settings_module.OPTIONS, "sftp", {"port": "22", "password": ""})
    monkeypatch.setattr(settings_module, "CREDENTIALS", frozenset({"sftp.password"}))
    values = VALUES | {"url": "sftp://host/packs", "sftp.password": "secret", "s3.region": "x"}
    settings = parse(values, Path("/"))
    assert settings.options == {"port": "22", "password": "secret"}
    assert parse(settings.values(), Path("/")) == settings
    assert "secret" not in str(settings_module.without_credentials(settings.values()))


@pytest.mark.parametrize(
    ("text", "form"),
    [("s3:/bucket/x", "s3://bucket/prefix"), ("s3:bucket", "s3://bucket/prefix"),
     ("sftp:/host/x", "sftp://user@host/folder"), ("FILE:/tmp/x", "file:///folder"),
     ("S3:/b", "s3://bucket/prefix"), ("ftp://host/x", "sftp://user@host/folder or s3://"),
     ("user@host:/x", None), ("host:/x", "file:///folder or sftp://"), ("s3+x:y", "file:///")],
)  # fmt: skip
def test_what_looks_like_a_url_is_not_made_a_folder(
    tmp_path: Path, text: str, form: str | None
) -> None:
    """And whoever has a folder of that name can say so."""
    folder = changed(url=f"./{text}").url
    assert folder == Path("/", text).as_uri()
    if form is None:
        assert changed(url=text).url == folder
        return
    said = f"'url': {text} should be .*{form}.* a folder of that name is ./{text}"
    for refused in (
        lambda: changed(url=text),
        lambda: read_ini(written(tmp_path, INI.replace("../packs", text))),
        lambda: template("photos", "/pictures", text),
        lambda: located(text, tmp_path / "x.archive", None),
    ):
        with pytest.raises(SettingsError, match=said.replace("+", "[+]")):
            refused()


def test_the_case_of_a_scheme_is_nothing() -> None:
    """RFC 3986, section 3.1."""
    assert changed(url="FILE:///tmp/X").url == "file:///tmp/X"
    assert changed(url="Sftp://Host/X").url == "sftp://Host/X"
    assert changed(url="S3://bucket/X").scheme == "s3"


def test_a_storage_folder_of_any_bytes() -> None:
    folder = os.fsdecode(b"/tmp/\xff and \xc3\xbc")
    assert LocalStorage.of_url(changed(url=folder).url).folder == Path(folder)
    assert LocalStorage.of_url(f"file://{folder}").folder == Path(folder)


@pytest.mark.parametrize("name", [".hid", "-x", "x" * 101, "\udcff", "a b", "x ", "x\n", "ü"])
def test_a_name_that_start_would_refuse_is_refused_by_init(name: str) -> None:
    with pytest.raises(SettingsError, match=r"'name': .* begin with a letter, .* at most 100"):
        template(name, "/pictures", "/packs")
    with pytest.raises(SettingsError, match="'name'"):
        changed(name=name)
    assert changed(name="x" * 100).name == "x" * 100


@pytest.mark.parametrize(
    ("value", "wrong"),
    [("tr ", "begins or ends"), ("\ttr", "begins or ends"), ("t\nr", "has a line break"),
     ("t\rname = x", "has a line break"), ("/tmp/\udcff", "is not UTF-8")],
)  # fmt: skip
def test_what_an_ini_file_cannot_hold_is_refused(value: str, wrong: str) -> None:
    with pytest.raises(SettingsError, match=f"'source': .* {wrong}.* use a link to it"):
        template("photos", value, "/packs")
    with pytest.raises(SettingsError, match=f"'url': .* {wrong}.* write it as file:///folder"):
        template("photos", "/pictures", value)


@pytest.mark.parametrize(
    "value", ["a b", "= a", "# a", "; a", "[a]", "%(a)s", "a\u00a0b", "a = b: c", '"a"', "a\\"]
)
def test_what_it_can_hold_comes_back(tmp_path: Path, value: str) -> None:
    read = read_ini(written(tmp_path, template("photos", value, value)))
    assert read.source == tmp_path / value
    assert LocalStorage.of_url(read.url).folder == tmp_path / value


def test_a_url_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"'url': sftp://\[fe80::1/x: invalid ipv6 url"):
        template("photos", "/pictures", "sftp://[fe80::1/x")
    with pytest.raises(SettingsError, match="invalid ipv6 url"):
        read_ini(written(tmp_path, INI.replace("../packs", "sftp://[fe80::1/x")))
