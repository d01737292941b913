from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tarfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from miniatures import class_picture, imagenet_folder
from PIL import Image

import sing_nb.pictures.folders
import sing_nb.pictures.images
from sing_nb.errors import SingError
from sing_nb.models.prompts import imagenet_names
from sing_nb.pictures.fetch import cache_dir
from sing_nb.pictures.folders import (
    folder_pictures,
    hub_pictures,
    imagenet_pictures,
    imagenette_pictures,
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


def class_folders(root, names, count=3, suffix=".png"):
    """Folders of small pictures by name."""
    for which, name in enumerate(names):
        (root / name).mkdir(parents=True)
        for number in range(count):
            class_picture(which, number, (24, 16)).save(root / name / f"{number}{suffix}")
    return root


def load(root, **options):
    return folder_pictures(root, progress=False, **options)


# --- layouts and tables -------------------------------------------------------------------------


def test_imagenet_has_every_picture_with_the_name_and_index_of_its_class(imagenet):
    table = imagenet_pictures(imagenet, progress=False)
    files = sorted((imagenet / "train").glob("*/*.JPEG"))
    assert table["path"].tolist() == [str(path) for path in files]
    assert table["class_index"].tolist() == [index for index in CLASSES for _ in range(5)]
    assert table["label"].tolist() == [imagenet_names()[i] for i in table["class_index"]]
    assert (table["source"] == "folder").all()
    assert table["subject"].equals(table["picture"])
    assert table["picture"].is_unique
    for row in table.to_dict("records"):
        path = Path(row["path"])
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        assert row["picture"] == f"{path.stem}-{digest[:10]}"
    assert table.attrs["skipped"] == []


def test_its_columns_are_those_of_other_sources(imagenet):
    rows = re.findall(r"^(``.+?``) ", sing_nb.pictures.images.__doc__, re.MULTILINE)
    assert list(load(imagenet).columns) == re.findall(r"\w+", " ".join(rows))


def test_pictures_are_the_files_themselves_in_colour(imagenet, tmp_path):
    table = load(imagenet)
    modes, formats = set(), set()
    for row in table.to_dict("records"):
        with Image.open(row["path"]) as file:
            modes.add(file.mode)
            formats.add(file.format)
            assert render_view(row).size == file.size
        assert render_view(row).mode == "RGB"
        assert picture_file(row, tmp_path) == Path(row["path"])
    assert modes == {"L", "RGB", "CMYK"}
    assert formats == {"JPEG", "PNG"}


def test_splits_are_found_in_every_usual_layout(imagenet, tmp_path):
    wanted = {split: load(imagenet / split)["picture"].tolist() for split in ("train", "val")}
    assert load(imagenet)["picture"].tolist() == wanted["train"]
    kaggle = tmp_path / "ILSVRC" / "Data" / "CLS-LOC"
    shutil.copytree(imagenet, kaggle)
    for root in (imagenet, tmp_path, tmp_path / "ILSVRC"):
        assert load(root, split="val")["picture"].tolist() == wanted["val"]
    (kaggle / "val").rename(kaggle / "Validation")
    assert load(kaggle, split="val")["picture"].tolist() == wanted["val"]
    assert load(imagenet / "val", split="val")["picture"].tolist() == wanted["val"]


def test_any_folder_of_class_folders_will_do(tmp_path):
    class_folders(tmp_path, ["golf_ball", "my-thing", "train"], count=2)
    (tmp_path / "golf_ball" / "0.png").rename(tmp_path / "golf_ball" / "0.PnG")
    (tmp_path / "golf_ball" / "deeper").mkdir()
    for hidden in ("golf_ball/.x.png", ".hidden/x.png", "golf_ball/deeper/x.png", "x.png"):
        (tmp_path / hidden).parent.mkdir(exist_ok=True)
        class_picture(9, 9, (24, 16)).save(tmp_path / hidden)
    (tmp_path / "golf_ball" / "list.txt").write_text("no picture")
    table = load(tmp_path)
    assert table["label"].tolist() == ["golf ball"] * 2 + ["my thing"] * 2 + ["train"] * 2
    assert table["class_index"].tolist() == [574, 574, -1, -1, -1, -1]


def test_a_mapping_names_skips_and_reaches_odd_folders(tmp_path):
    pictures = class_folders(tmp_path / "pictures", ["0", "1", "birds/cub", "junk"])
    mapping = tmp_path / "names.yaml"
    mapping.write_text(
        "'0': tench\n'1': {label: old shoe, subject: the shoe}\n"
        "birds/cub: {class_index: 22}\njunk: {skip: true}\n"
    )
    table = load(pictures, mapping=mapping)
    found = table.drop_duplicates("label")[["label", "class_index"]].to_numpy().tolist()
    assert found == [["tench", 0], ["old shoe", -1], [imagenet_names()[22], 22]]
    assert table.loc[table["label"] == "old shoe", "subject"].unique() == ["the shoe"]
    assert table["subject"].nunique() == 3 + 1 + 3
    mapping.write_text("'0': tench\n'1': shoe\nbirds/cup: bird\n")
    with pytest.raises(SingError, match=r"names.yaml, line 3, birds/cup: .*no such folder"):
        load(pictures, mapping=mapping)


def test_links_that_lead_out_are_not_followed(tmp_path, capsys):
    root = class_folders(tmp_path / "root", ["cat", "dog"])
    outside = class_folders(tmp_path / "outside", ["cow"])
    (root / "cow").symlink_to(outside / "cow")
    (root / "cat" / "cow.png").symlink_to(outside / "cow" / "0.png")
    (root / "cat" / "gone.png").symlink_to(root / "nowhere.png")
    (root / "cat" / "again.png").symlink_to(root / "dog" / "0.png")  # stays inside
    table = load(root)
    assert set(table["label"]) == {"cat", "dog"}
    assert len(table) == 6  # one of the two equal pictures
    said = capsys.readouterr().err
    assert "3 links that lead out of the folder or nowhere were not followed" in said
    assert "has the same content as" in said
    with pytest.raises(SingError, match="outside"):
        load(root, mapping={"cow/../../outside": "cow"})
    with pytest.raises(SingError, match=r"no such folder|lies outside"):
        load(root, mapping={"cow": "cow", "cow/x": "calf"})
    # The folder itself may be a link.
    (tmp_path / "link").symlink_to(root)
    assert load(tmp_path / "link")["picture"].tolist() == table["picture"].tolist()


# --- subsets ------------------------------------------------------------------------------------


def test_subsets_are_stratified_and_nested_and_follow_from_the_seed(imagenet, monkeypatch):
    larger = load(imagenet, total=14, seed=3)
    assert sorted(larger["label"].value_counts()) == [3, 3, 4, 4]
    assert set(load(imagenet, total=9, seed=3)["picture"]) < set(larger["picture"])
    assert load(imagenet, per_class=2)["label"].value_counts().tolist() == [2, 2, 2, 2]
    assert set(load(imagenet, total=14, seed=4)["picture"]) != set(larger["picture"])
    # The order in which a file system lists its files means nothing.
    entries = sing_nb.pictures.folders._entries
    monkeypatch.setattr(sing_nb.pictures.folders, "_entries", lambda *a: entries(*a)[::-1])
    assert load(imagenet, total=14, seed=3).equals(larger)


def test_classes_can_be_chosen(imagenet):
    assert set(load(imagenet, classes=["tench", 566])["class_index"]) == {0, 566}


def test_broken_pictures_are_replaced_counted_and_named(own, capsys):
    plain = load(own, per_class=3)
    bad = plain.loc[plain["class_index"] == 217, "path"].tolist()
    Path(bad[0]).write_bytes(b"")
    Path(bad[1]).write_bytes(Path(bad[1]).read_bytes()[:-500])
    table = load(own, per_class=3)
    assert table["label"].value_counts().equals(plain["label"].value_counts())
    assert {Path(one["path"]).name for one in table.attrs["skipped"]} == {
        Path(path).name for path in bad[:2]
    }
    reasons = " ".join(one["reason"] for one in table.attrs["skipped"])
    assert "is empty" in reasons
    assert "is damaged" in reasons
    said = capsys.readouterr().err
    assert "2 pictures of" in said
    assert bad[0] in said


def test_contents_are_hashed_once_until_a_file_changes(own, monkeypatch):
    first = load(own)
    monkeypatch.setattr(sing_nb.pictures.folders, "content_hash", None)  # would be called
    assert load(own).equals(first)
    monkeypatch.undo()


def test_a_changed_file_gets_a_new_name_and_a_damaged_store_is_made_again(own):
    first = load(own)
    changed = Path(first["path"][0])
    class_picture(7, 7, (40, 30)).save(changed)
    second = load(own)
    assert second["picture"][0] != first["picture"][0]
    assert second["picture"][1:].equals(first["picture"][1:])
    (store,) = (cache_dir() / "folders").iterdir()
    whole = json.loads(store.read_text())
    assert len(whole["files"]) == len(first)
    for damage in ("", "{", "[]", '{"files": {"a": 1}}', '{"files": {"a": [1, 2, "x"]}}'):
        store.write_text(damage)
        assert load(own).equals(second)
        assert json.loads(store.read_text()) == whole
    changed.unlink()
    Path(first["path"][1]).touch()
    assert len(load(own)) == len(first) - 1
    assert len(json.loads(store.read_text())["files"]) == len(first) - 1


# --- errors -------------------------------------------------------------------------------------


def test_folders_that_are_laid_out_otherwise_are_explained(imagenet, tmp_path):
    with pytest.raises(SingError, match=r"none does not exist\. Understood are <folder>/<class>"):
        load(tmp_path / "none")
    with pytest.raises(SingError, match="holds no class folders with pictures"):
        load(tmp_path)
    with pytest.raises(SingError, match=r"no class folders .*but 5 pictures directly"):
        load(imagenet / "train" / "n01440764")
    with pytest.raises(SingError, match=r"Unknown split 'vale' .did you mean 'val'"):
        load(imagenet, split="vale")
    with pytest.raises(SingError, match=r"no folder test with class folders \(found: train, val"):
        load(imagenet, split="test")
    flat = Path(shutil.copytree(imagenet / "train", tmp_path / "flat" / "train")).parent
    shutil.copytree(imagenet / "val" / "n01440764", flat / "val")
    with pytest.raises(SingError, match=r"val holds no class folders.*must be sorted"):
        load(flat, split="val")
    one = class_folders(tmp_path / "one", ["cat"])
    with pytest.raises(SingError, match=r"gives 1 class \(cat\)"):
        load(one)
    with pytest.raises(SingError, match="total must be a whole number"):
        load(imagenet, total=0)
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(SingError, match="file is a file"):
        load(file)


def test_where_nothing_is_left_it_says_why(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.jpg").touch()
    with pytest.raises(SingError, match=r"no two classes with pictures .*1\.jpg is empty"):
        load(tmp_path)


def test_an_imagenet_folder_has_classes_of_imagenet(tmp_path):
    class_folders(tmp_path, ["golf_ball", "my_thing"])
    with pytest.raises(SingError, match=r"no classes of ImageNet-1k.*'my_thing'.*folder:"):
        imagenet_pictures(tmp_path, progress=False)


# --- Imagenette ---------------------------------------------------------------------------------


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture
def published(tmp_path, monkeypatch):
    """Torchvision's class with a small archive of its layout at an address of this machine."""
    from torchvision.datasets import Imagenette

    wnids = list(Imagenette._WNID_TO_CLASS)
    tree = imagenet_folder(tmp_path / "tree" / "imagenette2-160", wnids, per_class=3, side=40)
    archive = tmp_path / "imagenette2-160.tgz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(tree, tree.name)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=tmp_path))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    entry = (
        f"http://127.0.0.1:{server.server_port}/{archive.name}",
        hashlib.md5(archive.read_bytes()).hexdigest(),
    )
    monkeypatch.setattr(Imagenette, "_ARCHIVES", {**Imagenette._ARCHIVES, "160px": entry})
    yield archive
    server.shutdown()
    server.server_close()


def test_imagenette_is_downloaded_once_by_torchvision(published):
    # What a killed run leaves behind does no harm.
    (cache_dir() / "imagenette" / ".partial" / "imagenette2-160").mkdir(parents=True)
    assert source_ready("imagenette", size="160px")[0]
    table = imagenette_pictures(size="160px", progress=False)
    home = cache_dir() / "imagenette" / "imagenette2-160"
    assert [path.name for path in home.parent.iterdir()] == [home.name]
    assert sorted(table["class_index"].unique()) == [
        0, 217, 482, 491, 497, 566, 569, 571, 574, 701
    ]
    assert set(table["label"]) == {imagenet_names()[i] for i in table["class_index"]}
    published.unlink()  # no longer needed
    val = source_pictures("imagenette", size="160px", split="val", total=20, progress=False)
    assert len(val) == 20
    assert not set(val["path"]) & set(table["path"])
    given = imagenette_pictures(home.parent, size="160px", progress=False)
    assert given.equals(imagenette_pictures(home, progress=False))
    assert given.equals(table)


def test_an_archive_with_another_sum_is_refused(published):
    published.write_bytes(published.read_bytes() + b"\0")
    with pytest.raises(SingError, match=r"Imagenette .160px. could not be had"):
        imagenette_pictures(size="160px", progress=False)
    assert not (cache_dir() / "imagenette" / "imagenette2-160").exists()


def test_imagenette_that_cannot_be_had_is_one_message(published, tmp_path):
    from torchvision.datasets import Imagenette

    gone = (tmp_path / "gone" / "imagenette2-160.tgz").as_uri()
    Imagenette._ARCHIVES["160px"] = (gone, "0")
    with pytest.raises(SingError, match=r"does not answer.*imagenette2-160 does not exist"):
        imagenette_pictures(size="160px", progress=False)
    ready, reason = source_ready("imagenette", size="160px")
    assert not ready
    assert gone in reason
    with pytest.raises(SingError, match=r"Unknown size '160' .*did you mean '160px'"):
        imagenette_pictures(size="160")
    with pytest.raises(SingError, match="holds neither imagenette2-320 nor"):
        imagenette_pictures(tmp_path)


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
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=names)}
    )
    rows = {"image": [{"bytes": data, "path": None} for data in contents], "label": labels}
    datasets.Dataset.from_dict(rows, features=features).to_parquet(folder / "train.parquet")
    return contents


def test_a_data_set_gives_its_own_bytes(datasets, tmp_path, capsys):
    names = ["golf ball, a ball", "thing", "tench, Tinca tinca"]
    labels = [0, 0, 0, 0, 1, 1, 2, 2, -1]
    contents = parquet(datasets, tmp_path / "own", names, labels, damage=[6])
    table = hub_pictures(str(tmp_path / "own"), progress=False)
    assert table["label"].value_counts().to_dict() == {"golf ball": 4, "thing": 2, "tench": 1}
    assert set(zip(table["label"], table["class_index"])) == {
        ("golf ball", 574), ("thing", -1), ("tench", 0)
    }
    sums = {hashlib.sha256(data).hexdigest(): label for data, label in zip(contents, labels)}
    for row in table.to_dict("records"):
        path = Path(row["path"])
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        assert path.name == f"{digest}.png"
        assert row["picture"].endswith(digest[:10])
        assert names[sums[digest]].startswith(row["label"])
    assert "row 6 of the data set" in capsys.readouterr().err
    before = {path: os.stat(path).st_mtime_ns for path in table["path"]}
    again = source_pictures(
        f"huggingface:{tmp_path / 'own'}", total=5, split=None, progress=False,
        mapping={"thing": {"label": "old shoe"}},
    )
    assert again["label"].value_counts().to_dict() == {"golf ball": 2, "old shoe": 2, "tench": 1}
    assert {path: os.stat(path).st_mtime_ns for path in table["path"]} == before
    assert source_ready(f"huggingface:{tmp_path / 'own'}")[0]


def test_a_data_set_in_the_order_of_imagenet_gets_its_names(datasets, tmp_path):
    from timm.data import ImageNetInfo

    described = ImageNetInfo("imagenet-1k").label_descriptions()
    names = [f"{words} #{index}" if described.count(words) > 1 else words
             for index, words in enumerate(described)]
    parquet(datasets, tmp_path / "own", names, [134, 134, 517, 517])
    table = hub_pictures(str(tmp_path / "own"), progress=False)
    assert sorted(set(zip(table["class_index"], table["label"]))) == [
        (134, imagenet_names()[134]), (517, imagenet_names()[517])
    ]


def test_a_folder_of_pictures_is_a_data_set_too(datasets, tmp_path):
    class_folders(tmp_path / "own" / "train", ["golf_ball", "thing"])
    table = hub_pictures(str(tmp_path / "own"), progress=False)
    plain = load(tmp_path / "own")
    assert table["picture"].tolist() == plain["picture"].tolist()
    assert table["class_index"].tolist() == plain["class_index"].tolist()


def test_faults_of_a_data_set_are_named(datasets, tmp_path):
    parquet(datasets, tmp_path / "own", ["cat", "dog"], [0, 0, 1, 1])
    name = str(tmp_path / "own")
    for options, message in (
        ({"image": "img"}, "no picture column 'img'; its picture columns: image"),
        ({"label": "labels"}, "no column 'labels' .did you mean 'label'"),
        ({"split": "val"}, r"cannot load .*split val.*train"),
        ({"mapping": {"cow": "cow"}}, "the mapping, cow: .*no class 'cow'"),
        ({"classes": ["cat"]}, "gives 1 class"),
        ({"per_class": 0}, "per_class must be"),
    ):
        with pytest.raises(SingError, match=message):
            hub_pictures(name, progress=False, **options)
    with pytest.raises(SingError, match="no folder, and no name at the Hugging Face hub"):
        hub_pictures(str(tmp_path / "none"))


def test_a_data_set_at_a_hub_that_does_not_answer_is_one_message(datasets, monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(SingError, match=r"data set nobody/nothing .*could not be had.*offline"):
        hub_pictures("nobody/nothing", progress=False)
    assert not datasets.config.HF_HUB_OFFLINE
    ready, reason = source_ready("huggingface:nobody/nothing")
    assert not ready
    assert "nobody___nothing does not exist" in reason


# --- one entry ----------------------------------------------------------------------------------


def test_sources_are_named_by_one_word(imagenet, monkeypatch):
    monkeypatch.setenv("SING_TEST_IMAGENET", str(imagenet))
    table = source_pictures(
        "imagenet:$SING_TEST_IMAGENET", total=8, seed=1, split="val", mapping=None, progress=False
    )
    assert table.equals(load(imagenet, total=8, seed=1, split="val"))
    for kind in ("folder", "imagenette"):
        assert source_pictures(f"{kind}:{imagenet}", progress=False).equals(load(imagenet))
    ready = source_ready("imagenet:$SING_TEST_IMAGENET", split="val")
    assert ready == (True, f"4 class folders in {imagenet / 'val'}")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("imagnet:/x", r"Unknown picture source 'imagnet:/x' \(did you mean 'imagenet'\?\)"),
        ("/data/x", r"A folder is written folder:/data/x"),
        ("imagenet", "names no folder; write imagenet:<folder>"),
        ("imagenette:", "names no folder"),
        ("folder:$SING_NOT_SET/x", "SING_NOT_SET is not set"),
        ("folder:/not/there", r"/not/there does not exist"),
    ],
)
def test_wrong_sources_are_explained_to_readers_and_to_the_doctor(spec, message):
    with pytest.raises(SingError, match=message) as raised:
        source_pictures(spec)
    assert source_ready(spec) == (False, str(raised.value))


def test_options_are_checked(imagenet):
    with pytest.raises(SingError, match=r"folder has no option 'totals' .did you mean 'total'"):
        source_pictures(f"folder:{imagenet}", totals=3)


def test_a_doctor_is_told_of_folders_without_classes(tmp_path):
    class_folders(tmp_path, ["cat"])
    ready, reason = source_ready(f"folder:{tmp_path}")
    assert not ready
    assert "holds 1 class folders" in reason


def test_pictures_of_a_class_share_something_to_learn(imagenet):
    # Held out, the nearest mean colour is the class's own for most: a translator can fit them.
    def colours(split):
        table = load(imagenet, split=split)
        means = [np.asarray(render_view(row)).mean((0, 1)) for row in table.to_dict("records")]
        return table["class_index"].to_numpy(), np.array(means)

    (known, train), (classes, test) = colours("train"), colours("val")
    centres = np.array([np.median(train[known == index], axis=0) for index in CLASSES])
    nearest = np.linalg.norm(test[:, None] - centres, axis=2).argmin(1)
    assert (np.array(CLASSES)[nearest] == classes).mean() > 0.8
