"""Debian packages fetched without apt from a mirror on loopback; manifests, folders, file names."""

from __future__ import annotations

import contextlib
import hashlib
import io
import lzma
import os
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pyarrow
import pytest

import sing_nb.pictures.fetch as module
from sing_nb.errors import SingError
from sing_nb.pictures.fetch import (
    Source,
    debian_mirrors,
    fetch,
    read_manifest,
    write_atomic,
)

FILES = {"a/one.png": os.urandom(5000), "a/two.png": b"two", "b/three.png": b"three"}
ARCHIVE = "t/tiny/tiny_1_all.deb"


def zstd(content):
    sink = pyarrow.BufferOutputStream()
    with pyarrow.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(content)
    return sink.getvalue().to_pybytes()


PACKED = {"xz": lzma.compress, "zst": zstd}


def package(files, ending="xz", more=()):
    """A Debian package by its specification, deb(5): an ar archive with a tar inside."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        members = [(tarfile.TarInfo(f"./usr/share/tiny/{name}"), files[name]) for name in files]
        for member, content in [*members, *more]:
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    found = b"!<arch>\n"
    for name, content in (("debian-binary", b"2.0\n"), ("control.tar.xz", b"odd"),
                          (f"data.tar.{ending}", PACKED[ending](buffer.getvalue()))):
        header = f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n"
        found += header.encode() + content + b"\n" * (len(content) % 2)
    return found


@contextlib.contextmanager
def mirror(content, component="main", cut=None):
    """A server of one package; it knows ranges, and may hang up after `cut` bytes."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            if self.path != f"/pool/{component}/{ARCHIVE}":
                self.send_error(404)
                return
            start = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
            asked.append(start)
            self.send_response(206)
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            self.wfile.write(content[start:cut])

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
    finally:
        server.shutdown()
        server.server_close()


def manifest(folder, files):
    lines = [f"{name},{hashlib.sha256(content).hexdigest()}" for name, content in files.items()]
    (folder / "tiny.csv").write_text("\r\n".join(["path,sha256", *lines]) + "\r\n")


@pytest.fixture
def world(tmp_path, monkeypatch):
    """A cache, a data folder and a source of our own; apt is not configured."""
    (tmp_path / "data").mkdir()
    monkeypatch.setenv("SING_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("SING_DEBIAN_MIRROR", raising=False)
    monkeypatch.setattr(module, "APT", tmp_path / "apt")
    monkeypatch.setattr(module, "data_dir", lambda: tmp_path / "data")
    monkeypatch.setitem(module.SOURCES, "tiny", Source(ARCHIVE, "usr/share/tiny", "tiny.csv"))
    manifest(tmp_path / "data", FILES)
    return tmp_path


def found(world):
    root = world / "cache" / "tiny" / "usr/share/tiny"
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}


@pytest.mark.parametrize(("ending", "component"), [("xz", "main"), ("zst", "universe")])
def test_a_package_is_fetched_from_the_mirror_of_apt(ending, component, world):
    link = tarfile.TarInfo("./usr/share/tiny/a/link.png")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    more = [(tarfile.TarInfo("../../escaped"), b"x"), (link, b""),
            (tarfile.TarInfo("./etc/cron.d/evil"), b"x")]
    with mirror(package(FILES, ending, more), component) as (address, asked):
        (world / "apt" / "sources.list.d").mkdir(parents=True)
        (world / "apt" / "sources.list.d" / "debian.sources").write_text(
            f"Types: deb\n# URIs: http://old.invalid/\nURIs: {address}/\nSuites: x\n")
        root = fetch("tiny", progress=False)
        assert found(world) == FILES  # and nothing that the manifest does not name
        assert not list(world.rglob("e*l*"))
        # Neither the archive nor anything half-done stays, and the next time nobody is asked.
        assert {path.suffix for path in (world / "cache" / "deb").iterdir()} == {".lock"}
        assert fetch("tiny", progress=False) == root
        assert len(asked) == 1


def test_mirrors_are_those_of_apt_or_the_readers_own(world, monkeypatch):
    assert debian_mirrors() == []
    (world / "apt").mkdir()
    (world / "apt" / "sources.list").write_text(
        "deb [arch=amd64 signed-by=/x.gpg] http://one.invalid/debian/ bookworm main\n"
        "deb-src http://one.invalid/debian bookworm main\n#deb http://off.invalid x y\n")
    (world / "apt" / "apt-mirrors.txt").write_text("https://two.invalid/ubuntu/\tpriority:1\n")
    assert debian_mirrors() == ["http://one.invalid/debian", "https://two.invalid/ubuntu"]
    monkeypatch.setenv("SING_DEBIAN_MIRROR", "http://mine.invalid/debian/")
    assert debian_mirrors() == ["http://mine.invalid/debian"]


def test_a_download_that_was_cut_short_is_completed(world, monkeypatch):
    content = package(FILES)
    with mirror(content, cut=1000) as (address, _):
        monkeypatch.setenv("SING_DEBIAN_MIRROR", address)
        with pytest.raises(SingError, match="cut short"):
            fetch("tiny", progress=False)
    (part,) = (world / "cache" / "deb").glob("*.part")
    assert part.read_bytes() == content[:1000]
    with mirror(content) as (address, asked):
        monkeypatch.setenv("SING_DEBIAN_MIRROR", address)
        part.rename(part.with_name(module.slug(f"{address}/pool/main/{ARCHIVE}") + ".part"))
        fetch("tiny", progress=False)
        assert asked == [999]
    assert found(world) == FILES


def test_a_file_with_another_checksum_is_named_and_never_believed(world, monkeypatch):
    with mirror(package({**FILES, "a/two.png": b"other"})) as (address, asked):
        monkeypatch.setenv("SING_DEBIAN_MIRROR", address)
        for _ in range(2):
            with pytest.raises(SingError, match=r"1 of 3 pictures.*tiny\.csv.*a/two\.png"):
                fetch("tiny", progress=False)
        assert len(asked) == 2


def test_a_damaged_archive_leaves_the_old_folder_and_is_fetched_anew(world, monkeypatch):
    lay(world, {**FILES, "a/one.png": b"old"})
    content = package(FILES)
    with mirror(content[:-100]) as (address, _):
        monkeypatch.setenv("SING_DEBIAN_MIRROR", address)
        with pytest.raises(SingError, match=r"tiny_1_all\.deb could not be unpacked"):
            fetch("tiny", progress=False)
    assert found(world)["a/one.png"] == b"old"
    with mirror(content) as (address, _):
        monkeypatch.setenv("SING_DEBIAN_MIRROR", address)
        fetch("tiny", progress=False)
    assert found(world) == FILES


def lay(world, files):
    """Put files where the source's are looked for."""
    for name, content in files.items():
        write_atomic(world / "cache" / "tiny" / "usr/share/tiny" / name, content)


def swapped_for_a_link(path):
    path.unlink()
    path.symlink_to(path.with_name("elsewhere.png"))
    path.with_name("elsewhere.png").write_bytes(FILES["a/two.png"])


@pytest.mark.parametrize("spoil", [
    lambda path: path.write_bytes(b"owt"), lambda path: path.unlink(), swapped_for_a_link,
], ids=["same size", "gone", "a link"])
def test_a_folder_copied_by_hand_needs_no_mirror_and_changes_are_noticed(spoil, world, capsys):
    lay(world, FILES)
    root = fetch("tiny", progress=False)
    assert fetch("tiny", progress=False) == root
    spoil(root / "a/two.png")
    with pytest.raises(SingError, match=r"tiny_1_all\.deb.*SING_DEBIAN_MIRROR.*copy the"):
        fetch("tiny", progress=False)
    assert "1 of 3 files in" in capsys.readouterr().err


@pytest.mark.parametrize("text", [
    "path,sha256\na.png,00\na/../../secret.png,00\n", "path,sha256\n/etc/passwd,00\n",
    "path,label\na.png,a\n", ""])
def test_a_manifest_that_leads_out_or_lacks_columns_is_refused(text, world):
    (world / "data" / "tiny.csv").write_text(text)
    with pytest.raises(SingError, match=r"tiny\.csv"):
        read_manifest("tiny.csv")


def test_an_unknown_source_is_refused():
    with pytest.raises(SingError, match=r"'stickers'; known: stamps, clipart"):
        fetch("stickers")
