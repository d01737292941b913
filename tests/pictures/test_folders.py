from __future__ import annotations

import hashlib
import re
import shutil
from pathlib import Path

import pytest
from miniatures import class_picture, imagenet_folder
from PIL import Image

import sing_nb.pictures.folders as module
import sing_nb.pictures.images
from sing_nb.errors import SingError
from sing_nb.models.prompts import imagenet_names
from sing_nb.pictures.fetch import cache_dir
from sing_nb.pictures.folders import (
    folder_pictures,
    hub_pictures,
    source_pictures,
    source_ready,
)
from sing_nb.pictures.images import picture_file, render_view

CLASSES = (0, 217, 482, 566)


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("SING_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="session")
def imagenet(tmp_path_factory):
    return imagenet_folder(tmp_path_factory.mktemp("imagenet"), CLASSES, per_class=5)


@pytest.fixture
def own(imagenet, tmp_path):
    """A copy that a test may spoil."""
    return Path(shutil.copytree(imagenet, tmp_path / "own"))


def class_folders(root, names, count=3):
    """Folders of small pictures by name."""
    for which, name in enumerate(names):
        (root / name).mkdir(parents=True)
        for number in range(count):
            class_picture(which, number, (24, 16)).save(root / name / f"{number}.png")
    return root


def load(root, **options):
    return folder_pictures(root, progress=False, **options)


# --- layouts and tables -------------------------------------------------------------------------


def test_imagenet_has_every_picture_with_the_name_and_index_of_its_class(imagenet, tmp_path):
    table = source_pictures(f"imagenet:{imagenet}", progress=False)
    files = sorted((imagenet / "train").glob("*/*.JPEG"))
    assert table["path"].tolist() == [str(path) for path in files]
    assert table["class_index"].tolist() == [index for index in CLASSES for _ in range(5)]
    assert table["label"].tolist() == [imagenet_names()[i] for i in table["class_index"]]
    assert (table["source"] == "folder").all()
    assert table["subject"].equals(table["picture"])
    assert table["picture"].is_unique
    columns = re.findall(r"^(``.+?``) ", sing_nb.pictures.images.__doc__, re.MULTILINE)
    assert list(table.columns) == re.findall(r"\w+", " ".join(columns))
    for row in table.to_dict("records"):
        path = Path(row["path"])
        assert row["picture"] == f"{path.stem}-{hashlib.sha256(path.read_bytes()).hexdigest()[:10]}"
        assert picture_file(row, tmp_path) == path
        with Image.open(path) as file:  # also grey and CMYK ones
            assert render_view(row).size == file.size
    assert table.attrs["skipped"] == table.attrs["notes"] == []


def test_splits_are_found(imagenet, own, capsys):
    wanted = {split: load(imagenet / split)["picture"].tolist() for split in ("train", "val")}
    assert load(imagenet)["picture"].tolist() == wanted["train"]
    assert load(imagenet / "val", split="val")["picture"].tolist() == wanted["val"]
    assert capsys.readouterr().err == ""
    (own / "val").rename(own / "Validation")
    class_folders(own, ["others"])
    assert load(own, split="val")["picture"].tolist() == wanted["val"]
    assert "left out beside them: others" in capsys.readouterr().err
    with pytest.raises(SingError, match=r"no folder test with class folders \(found: train, val"):
        load(imagenet, split="test")


def test_class_folders_are_read_to_any_depth(tmp_path):
    class_folders(tmp_path, ["hen", "tiger/2023", "tiger/by phone/12", "train"], count=2)
    table = load(tmp_path)
    assert table["label"].value_counts().to_dict() == {"tiger": 4, "hen": 2, "train": 2}
    assert set(table["path"]) == {str(path) for path in tmp_path.rglob("*.png")}
    assert table["picture"].is_unique


def test_only_folders_of_one_name_are_one_class_and_that_is_said(tmp_path, capsys):
    table = load(class_folders(tmp_path, ["1 euro", "2_euro", "My_Dog", "my-dog"]))
    assert table["label"].value_counts().to_dict() == {"My Dog": 6, "1 euro": 3, "2 euro": 3}
    (note,) = table.attrs["notes"]
    assert "my-dog and My_Dog" in note
    assert note in capsys.readouterr().err


def test_what_is_left_out_is_said_and_nothing_is_written_there(tmp_path, capsys):
    root = class_folders(tmp_path / "root", ["cat", "dog"])
    outside = class_folders(tmp_path / "outside", ["cow"])
    (root / "cow").symlink_to(outside / "cow")
    (root / "cat" / "cow.png").symlink_to(outside / "cow" / "0.png")
    (root / "cat" / "gone.png").symlink_to(root / "nowhere.png")
    (root / "cat" / "again.png").symlink_to(root / "dog" / "0.png")  # stays inside
    for name in ("loose.png", "cat/.hidden.png", "cat/README"):
        shutil.copy(outside / "cow" / "1.png", root / name)
    before = {path: path.lstat().st_mtime_ns for path in root.rglob("*")}
    table = load(root)
    assert {path: path.lstat().st_mtime_ns for path in root.rglob("*")} == before
    assert table["label"].value_counts().to_dict() == {"cat": 3, "dog": 3}
    reasons = {one["path"]: one["reason"] for one in table.attrs["skipped"]}
    assert reasons.keys() > {"cat/cow.png"}
    assert "leads out of" in reasons["cat/cow.png"]
    assert "has the same content as" in " ".join(reasons.values())
    notes = " ".join(table.attrs["notes"])
    for left_out in ("1 links to folders", "1 pictures in no class", "example cat/README"):
        assert left_out in notes
    assert all(note in said for said in [capsys.readouterr().err] for note in table.attrs["notes"])
    (tmp_path / "link").symlink_to(root)  # the folder itself may be a link
    assert load(tmp_path / "link")["picture"].tolist() == table["picture"].tolist()


# --- subsets ------------------------------------------------------------------------------------


SIZES = {"ant": 2, "bee": 4, "cat": 9}


@pytest.fixture(scope="module")
def uneven(tmp_path_factory):
    root = class_folders(tmp_path_factory.mktemp("uneven"), SIZES, count=9)
    for name, size in SIZES.items():
        for number in range(size, 9):
            (root / name / f"{number}.png").unlink()
    return root


@pytest.mark.parametrize("total", [3, 5, 8, 12])
def test_classes_get_equal_shares_and_a_smaller_subset_lies_within_a_larger_one(uneven, total):
    table = load(uneven, total=total, seed=3)
    counts = table["label"].value_counts()
    # The level up to which every class is filled, found by trying them all.
    level = max(n for n in range(10) if sum(min(s, n) for s in SIZES.values()) <= total)
    for name, size in SIZES.items():
        assert min(size, level) <= counts[name] <= min(size, level + 1)
    assert len(table) == total
    assert set(table["path"]) < set(load(uneven, total=total + 2, seed=3)["path"])


def test_broken_pictures_are_named_and_others_take_their_place(own, capsys):
    plain = load(own, total=12)
    bad = plain.loc[plain["class_index"] == 217, "path"].tolist()[:2]
    Path(bad[0]).write_bytes(b"")
    Path(bad[1]).write_bytes(Path(bad[1]).read_bytes()[:-500])
    for _ in range(2):  # and what was refused is not believed the second time
        table = load(own, total=12)
        assert len(table) == 12
        assert set(plain["path"]) - set(table["path"]) == set(bad)
        skipped = {one["path"]: one["reason"] for one in table.attrs["skipped"]}
        assert {Path(path).name for path in skipped} == {Path(path).name for path in bad}
        assert "is damaged" in " ".join(skipped.values())
        assert "2 pictures of" in capsys.readouterr().err
    assert len(load(own, total=30)) == 18
    assert "30 pictures of" in capsys.readouterr().err


# --- errors -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("folder", "options", "message"), [
    ("none", {}, r"none does not exist"), ("", {"split": "vale"}, "Unknown split 'vale'"),
    ("", {"total": 0}, "total must be"), ("train/n01440764", {}, "gives 0 classes"),
    ("only", {}, r"gives 1 classes with pictures \(cat\).*at least two"),
    ("bad", {}, r"gives 0 classes .*1\.jpg is")])
def test_what_cannot_be_used_is_explained(own, folder, options, message):
    class_folders(own / "only", ["cat"])
    for name in ("cat", "dog"):
        (own / "bad" / name).mkdir(parents=True)
        (own / "bad" / name / "1.jpg").touch()
    with pytest.raises(SingError, match=message):
        load(own / folder, **options)


# --- sources ------------------------------------------------------------------------------------


def test_imagenette_is_downloaded_once(tmp_path, monkeypatch):
    calls = []

    def download(root, split, size, download):  # torchvision's class, which checks an MD5
        calls.append(root)
        assert not (Path(root) / "imagenette2-320").exists()
        imagenet_folder(Path(root) / "imagenette2-320", CLASSES, per_class=2, side=24)

    monkeypatch.setattr("torchvision.datasets.Imagenette", download)
    monkeypatch.setattr(module, "hub_reachable", lambda url: False)
    assert not source_ready("imagenette")[0]
    with pytest.raises(SingError, match="Imagenette could not be had"):
        source_pictures("imagenette", progress=False)
    monkeypatch.setattr("sing_nb.models.hub.hub_reachable", lambda url: True)
    # What a killed run leaves behind does no harm.
    (cache_dir() / "imagenette" / ".partial" / "imagenette2-320").mkdir(parents=True)
    for _ in range(2):
        assert set(source_pictures("imagenette", progress=False)["class_index"]) == set(CLASSES)
    assert len(calls) == 1
    assert [path.name for path in (cache_dir() / "imagenette").iterdir()] == ["imagenette2-320"]


# --- data sets ----------------------------------------------------------------------------------


@pytest.fixture
def datasets(tmp_path, monkeypatch):
    found = pytest.importorskip("datasets")
    monkeypatch.setattr(found.config, "HF_DATASETS_CACHE", tmp_path / "datasets-cache")
    found.disable_progress_bars()
    return found


def parquet(datasets, folder, names, labels, damage=()):
    """Save a data set by the library's own means; the bytes of its pictures."""
    folder.mkdir()
    contents = []
    for number, label in enumerate(labels):
        path = folder.parent / f"{folder.name}-{number}.png"
        class_picture(max(label, 0), number, (24, 16)).save(path)
        contents.append(b"" if number in damage else path.read_bytes())
        path.unlink()
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=names)})
    rows = {"image": [{"bytes": data, "path": None} for data in contents], "label": labels}
    datasets.Dataset.from_dict(rows, features=features).to_parquet(folder / "train.parquet")
    return contents


def test_a_data_set_gives_its_own_bytes(datasets, tmp_path):
    names = ["golf ball, a ball", "thing", "tench, Tinca tinca"]
    labels = [0, 0, 0, 0, 1, 1, 2, 2, -1]
    contents = parquet(datasets, tmp_path / "own", names, labels, damage=[6])
    table = hub_pictures(str(tmp_path / "own"), progress=False)
    assert table.groupby(["label", "class_index"]).size().to_dict() == {
        ("golf ball", 574): 4, ("thing", -1): 2, ("tench", 0): 1}
    of = {hashlib.sha256(data).hexdigest(): names[label] for data, label in zip(contents, labels)}
    for row in table.to_dict("records"):
        digest = hashlib.sha256(Path(row["path"]).read_bytes()).hexdigest()
        assert of[digest].startswith(row["label"])
        assert row["picture"].endswith(digest[:10])
    assert "tench, Tinca tinca/6" in [one["path"] for one in table.attrs["skipped"]]
    again = source_pictures(f"huggingface:{tmp_path / 'own'}", total=5, progress=False)
    assert again["label"].value_counts().to_dict() == {"golf ball": 2, "thing": 2, "tench": 1}
