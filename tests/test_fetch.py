from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from browser import serve

import sing_nb.pictures.fetch as module
from sing_nb.errors import SingError
from sing_nb.pictures.fetch import (
    Source,
    _download,
    _unpack,
    _wrong,
    fetch,
    read_manifest,
    write_atomic,
)

needs_dpkg = pytest.mark.skipif(
    not shutil.which("dpkg-deb"), reason="no dpkg-deb: not a Debian or Ubuntu machine"
)
FILES = {"a/one.png": b"one", "a/two.png": b"two", "b/three.png": b"three"}


def sha(content):
    return hashlib.sha256(content).hexdigest()


def lay(root, files):
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)


def pack(folder, files, root="usr/share/tiny"):
    """A real Debian package with these files under `root`."""
    tree = folder / "tree"
    lay(tree / root, files)
    (tree / "DEBIAN").mkdir()
    (tree / "DEBIAN" / "control").write_text(
        "Package: tiny\nVersion: 1\nArchitecture: all\nMaintainer: x <x@example.org>\n"
        "Description: pictures\n"
    )
    archive = folder / "tiny_1_all.deb"
    command = ["dpkg-deb", "--root-owner-group", "--build", str(tree), str(archive)]
    subprocess.run(command, check=True, capture_output=True)
    shutil.rmtree(tree)
    return archive


def manifest(folder, files):
    lines = [f"{name},{sha(content)}" for name, content in files.items()]
    (folder / "tiny.csv").write_text("\n".join(["path,sha256", *lines]) + "\n")


@pytest.fixture
def world(tmp_path, monkeypatch):
    """A cache, a data folder and a source of our own; no apt on the PATH."""
    for name in ("cache", "data", "bin", "mirror"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("SING_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(module, "data_dir", lambda: tmp_path / "data")
    monkeypatch.setitem(module.SOURCES, "tiny", Source("tiny", "usr/share/tiny", "tiny.csv"))
    manifest(tmp_path / "data", FILES)
    return tmp_path


@pytest.fixture
def mirror(world, monkeypatch):
    """A Debian mirror of our own on loopback, for the real apt; starts without package lists."""
    monkeypatch.setenv("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
    folder = world / "mirror"
    for name in ("state/lists/partial", "apt/archives/partial"):
        (world / name).mkdir(parents=True)
    (world / "state/status").touch()
    with serve(folder) as address:
        (world / "sources.list").write_text(f"deb [trusted=yes] {address}/ ./\n")
        (world / "apt.conf").write_text(
            f'Dir::State "{world}/state";\nDir::State::status "{world}/state/status";\n'
            f'Dir::Cache "{world}/apt";\nDir::Etc::sourcelist "{world}/sources.list";\n'
            'Dir::Etc::sourceparts "-";\nAPT::Sandbox::User "root";\n'
            # apt tells its caches apart by whole seconds, longer than one of these tests.
            'Dir::Cache::pkgcache "";\nDir::Cache::srcpkgcache "";\n'
            'Acquire::Retries "0";\nAcquire::http::Proxy "DIRECT";\n'
        )
        monkeypatch.setenv("APT_CONFIG", str(world / "apt.conf"))
        yield folder


def publish(mirror, files):
    """Put a package on the mirror and list it."""
    archive = pack(mirror, files)
    content = archive.read_bytes()
    (mirror / "Packages").write_text(
        f"Package: tiny\nVersion: 1\nArchitecture: all\nMaintainer: x <x@example.org>\n"
        f"Filename: ./{archive.name}\nSize: {len(content)}\nSHA256: {sha(content)}\n"
        f"Description: pictures\n"
    )
    return archive


@needs_dpkg
def test_a_package_is_downloaded_unpacked_and_checked(world, mirror):
    publish(mirror, FILES)
    root = fetch("tiny", progress=False)
    assert root == world / "cache" / "tiny" / "usr/share/tiny"
    assert {name: (root / name).read_bytes() for name in FILES} == FILES
    # The archive is not kept beside what was unpacked, and nothing half-done is left.
    assert sorted(path.name for path in (world / "cache").iterdir()) == ["deb", "tiny"]
    assert not list((world / "cache" / "deb").iterdir())


@needs_dpkg
def test_a_verified_folder_is_not_fetched_again(world, mirror, monkeypatch):
    publish(mirror, FILES)
    root = fetch("tiny", progress=False)
    monkeypatch.setenv("PATH", "")
    assert fetch("tiny", progress=False) == root


@needs_dpkg
def test_a_file_with_another_checksum_is_named(world, mirror):
    publish(mirror, {**FILES, "a/two.png": b"other"})
    with pytest.raises(SingError, match=r"1 of 3 pictures.*tiny\.csv.*a/two\.png"):
        fetch("tiny", progress=False)
    with pytest.raises(SingError, match=r"a/two\.png"):  # and it is not believed the next time
        fetch("tiny", progress=False)


@needs_dpkg
def test_a_changed_manifest_is_checked_anew(world, mirror):
    publish(mirror, FILES)
    fetch("tiny", progress=False)
    manifest(world / "data", {**FILES, "b/three.png": b"new"})
    with pytest.raises(SingError, match=r"b/three\.png"):
        fetch("tiny", progress=False)


@needs_dpkg
def test_a_failed_download_says_what_apt_said(world, mirror):
    publish(mirror, FILES).unlink()
    with pytest.raises(SingError, match=r"(?s)tiny failed \(exit 100\).*404.*run again"):
        fetch("tiny", progress=False)


@needs_dpkg
def test_a_download_that_was_cut_short_is_completed(world, mirror):
    archive = publish(mirror, FILES)
    part = world / "cache" / "deb" / f"{archive.name}.part"
    part.parent.mkdir()
    part.write_bytes(archive.read_bytes()[:100])
    root = fetch("tiny", progress=False)
    assert {name: (root / name).read_bytes() for name in FILES} == FILES
    assert not part.exists()


@needs_dpkg
def test_a_package_that_apt_does_not_know(world, mirror):
    (mirror / "Packages").touch()
    with pytest.raises(SingError, match="apt does not know the package tiny"):
        fetch("tiny", progress=False)


def test_a_folder_copied_by_hand_needs_no_apt(world):
    root = world / "cache" / "tiny" / "usr/share/tiny"
    lay(root, FILES)
    assert fetch("tiny", progress=False) == root


def test_without_apt_the_message_says_what_to_do(world):
    with pytest.raises(SingError, match=r"package tiny.*no apt-get.*copy the folder"):
        _download("tiny", False)


def test_an_unknown_source_is_refused():
    with pytest.raises(SingError, match=r"'stickers'; known: stamps, clipart"):
        fetch("stickers")


def test_wrong_files_are_those_that_differ_or_are_missing(tmp_path):
    lay(tmp_path, {**FILES, "a/two.png": b"other"})
    (tmp_path / "b/three.png").unlink()
    rows = [{"path": name, "sha256": sha(content)} for name, content in FILES.items()]
    assert _wrong(tmp_path, rows, "tiny", False) == ["a/two.png", "b/three.png"]


def test_a_link_is_not_taken_for_a_picture(tmp_path):
    lay(tmp_path, {"elsewhere.png": b"one"})
    (tmp_path / "link.png").symlink_to(tmp_path / "elsewhere.png")
    rows = [{"path": "link.png", "sha256": sha(b"one")}]
    assert _wrong(tmp_path, rows, "tiny", False) == ["link.png"]


@needs_dpkg
def test_unpacking_replaces_the_old_folder_as_a_whole(tmp_path):
    home = tmp_path / "cache" / "tiny"
    lay(home, {"old.txt": b"old"})
    _unpack(pack(tmp_path, FILES), home)
    found = {str(p.relative_to(home)): p.read_bytes() for p in home.rglob("*") if p.is_file()}
    assert found == {f"usr/share/tiny/{name}": content for name, content in FILES.items()}
    assert [path.name for path in home.parent.iterdir()] == ["tiny"]


@needs_dpkg
def test_a_broken_archive_is_removed_and_the_old_folder_stays(tmp_path):
    home = tmp_path / "cache" / "tiny"
    lay(home, {"old.txt": b"old"})
    archive = pack(tmp_path, FILES)
    archive.write_bytes(archive.read_bytes()[:200])
    with pytest.raises(SingError, match=r"could not unpack tiny_1_all\.deb"):
        _unpack(archive, home)
    assert not archive.exists()
    assert (home / "old.txt").read_bytes() == b"old"
    assert [path.name for path in home.parent.iterdir()] == ["tiny"]


@pytest.mark.parametrize("path", ["../secret.png", "a/../../secret.png", "/etc/passwd"])
def test_paths_that_leave_their_folder_are_refused(world, path):
    (world / "data" / "tiny.csv").write_text(f"path,sha256\na.png,00\n{path},00\n")
    with pytest.raises(SingError, match="leaves its folder"):
        read_manifest("tiny.csv")


@pytest.mark.parametrize("text", ["", "path,sha256\n", "path,label\na.png,a\n"])
def test_a_manifest_needs_rows_with_path_and_sum(world, text):
    (world / "data" / "tiny.csv").write_text(text)
    with pytest.raises(SingError, match="columns path and sha256"):
        read_manifest("tiny.csv")


def test_a_missing_manifest_is_named(world):
    with pytest.raises(SingError, match=r"none\.csv is missing"):
        read_manifest("none.csv")


@pytest.mark.parametrize("content", ["text", b"bytes"])
def test_writing_makes_folders_and_leaves_only_the_file(tmp_path, content):
    path = write_atomic(tmp_path / "new" / "file.txt", content)
    assert path.read_bytes() == (content if isinstance(content, bytes) else content.encode())
    assert path.stat().st_mode & 0o777 == 0o644
    assert [p.name for p in path.parent.iterdir()] == ["file.txt"]


def test_old_content_stays_when_writing_fails(tmp_path):
    path = write_atomic(tmp_path / "file.txt", "old")
    with pytest.raises(UnicodeEncodeError):
        write_atomic(path, "a lone surrogate cannot be encoded: \ud800")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file.txt"]


def test_the_cache_folder_can_be_chosen(monkeypatch):
    monkeypatch.setenv("SING_CACHE", "/somewhere")
    assert module.cache_dir() == Path("/somewhere")
    monkeypatch.delenv("SING_CACHE")
    assert module.cache_dir().name == "sing_nb"
