from __future__ import annotations

import pytest

from sing_nb.errors import SingError
from sing_nb.models.prompts import imagenet_names
from sing_nb.pictures.labels import (
    expanded,
    in_imagenet_order,
    name_classes,
    read_mapping,
    select_classes,
)


def named(*names, mapping=None, **options):
    return {name: one[:2] for name, one in
            name_classes(names, read_mapping(mapping), "the test", **options).items()}


def test_synsets_get_the_curated_name_and_their_place():
    # Places as in the published list of the 1000 synsets.
    assert named("n01440764", "n02979186", "n15075141") == {
        "n01440764": ("tench", 0), "n02979186": ("cassette player", 482),
        "n15075141": ("toilet paper", 999),
    }


def test_synsets_of_the_larger_imagenet_have_a_name_and_no_place():
    assert named("n00007846", "n02084071") == {
        "n00007846": ("person", -1), "n02084071": ("dog", -1),
    }


def test_words_are_labels_and_their_class_is_the_one_they_mean():
    assert named("Golf_ball", "garbage-truck", "crane", "my_cat", "T-shirt", "001.tench") == {
        "Golf_ball": ("Golf ball", 574), "garbage-truck": ("garbage truck", 569),
        "crane": ("crane", -1),  # the bird or the machine
        "my_cat": ("my cat", -1), "T-shirt": ("T shirt", 610), "001.tench": ("tench", 0),
    }
    assert named("tench, Tinca tinca")["tench, Tinca tinca"] == ("tench", 0)
    assert named("deep/tench", folders=True)["deep/tench"] == ("tench", 0)


def test_names_without_words_are_refused_until_they_are_mapped():
    with pytest.raises(SingError, match=r"2 classes of the test have no name in words.*'0'"):
        named("0", "_1", "tench")
    assert named("0", mapping={"0": "golden_eagle"}) == {"0": ("golden_eagle", -1)}
    assert named("0", mapping={"0": {"class_index": 574}}) == {"0": ("golf ball", 574)}


def test_a_mapping_has_the_first_word():
    entries = {
        "n01440764": "fish", "tench": {"label": "golf ball"}, "odd": {"label": "golf ball"},
        "golf_ball": {"class_index": -1}, "mine": {"label": "thing", "class_index": 3},
    }
    assert named(*entries, mapping=entries) == {
        "n01440764": ("fish", 0),  # the synset says which class it is
        "tench": ("golf ball", 574), "odd": ("golf ball", 574), "golf_ball": ("golf ball", -1),
        "mine": ("thing", 3),
    }


def test_thousand_names_in_order_are_told_from_others():
    names = list(imagenet_names())
    assert in_imagenet_order(names)
    assert in_imagenet_order([f"{name}, something else" for name in names])
    assert not in_imagenet_order(sorted(names))
    assert not in_imagenet_order(names[:999])
    assert not in_imagenet_order(None)
    twice = [f"{name}, {index}" for index, name in enumerate(names)]
    both = name_classes(twice[:3], {}, "the test", ordered=twice)
    assert both[twice[2]][:2] == (names[2], 2)


def test_classes_are_chosen_by_name_label_or_index():
    found = name_classes(["n01440764", "golf_ball", "cat"], {}, "the test")
    for wanted in (["n01440764", "cat"], ["Tench", "CAT"], [0, "cat"]):
        assert list(select_classes(found, wanted, "the test")) == ["n01440764", "cat"]
    assert select_classes(found, None, "the test") == found
    with pytest.raises(SingError, match=r"no class 'golf bal' .did you mean 'golf ball'"):
        select_classes(found, ["golf bal"], "the test")
    with pytest.raises(SingError, match="no class 7"):
        select_classes(found, [7], "the test")
    with pytest.raises(SingError, match=r"gives 1 class \(cat\).*at least two"):
        select_classes(found, ["cat"], "the test")


def test_yaml_and_csv_say_the_same(tmp_path):
    (tmp_path / "m.yaml").write_text(
        "a: golf ball\nb/c: {label: tench, class_index: 0, subject: one}\n'01': {skip: true}\n"
    )
    (tmp_path / "m.csv").write_text(
        "folder,label,class_index,subject,skip\na,golf ball,,,\nb/c,tench,0,one,false\n01,,,,True\n"
    )
    first, second = (read_mapping(tmp_path / name) for name in ("m.yaml", "m.csv"))
    assert first["b/c"].pop("where") == f"{tmp_path}/m.yaml, line 2, b/c"
    assert second["b/c"].pop("where") == f"{tmp_path}/m.csv, line 3, b/c"
    assert second["b/c"].pop("skip") is False
    for one in (first, second):
        assert one["b/c"] == {"label": "tench", "class_index": 0, "subject": "one"}
        assert one["a"]["label"] == "golf ball"
        assert one["01"]["skip"] is True


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("m.yaml", "a: x\nb: {lable: x}", r"m.yaml, line 2, b: unknown key 'lable' .*'label'"),
        ("m.yaml", "a: {class_index: 1000}", "line 1, a: class_index is .*0 to 999.* got 1000"),
        ("m.yaml", "a: {class_index: one}", "class_index must be int; got 'one'"),
        ("m.yaml", "a: {skip: 1}", "skip must be bool; got 1"),
        ("m.yaml", "a: {label: ' '}", "label is empty"),
        ("m.yaml", "a: x\n../b: y", r"line 2, \.\./b: expected a folder inside"),
        ("m.yaml", "/b: y", "expected a folder inside"),
        ("m.yaml", ".: y", "expected a folder inside"),
        ("m.yaml", "a: x\na/: y", "line 2, a: named twice"),
        ("m.yaml", "a: [x]", r"expected a label or .* got \['x'\]"),
        ("m.yaml", "- a", "must hold lines as"),
        ("m.yaml", "a: {", "cannot be read"),
        ("m.yaml", "a: !!python/object/apply:os.system [ls]", "cannot be read"),
        ("m.csv", "label\nx", "needs the column folder"),
        ("m.csv", "folder,label\na,b,c", "line 2: more cells than columns"),
        ("m.csv", "folder,class_index\na,x", "line 2: class_index must be a whole number"),
        ("m.csv", "folder,skip\na,maybe", "line 2: skip must be true or false"),
        ("m.csv", "folder,name\na,b", "line 2, a: unknown key 'name'"),
        ("m.txt", "a: x", r"ends in \.yaml or \.csv"),
    ],
)
def test_faults_of_a_mapping_are_named_with_their_place(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(SingError, match=message):
        read_mapping(tmp_path / name)


def test_a_missing_mapping_is_named(tmp_path):
    with pytest.raises(SingError, match=r"none\.yaml does not exist"):
        read_mapping(tmp_path / "none.yaml")


def test_variables_in_paths_are_expanded_or_asked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("SING_TEST", str(tmp_path))
    monkeypatch.delenv("SING_NONE", raising=False)
    assert expanded("$SING_TEST/a") == expanded("${SING_TEST}/a") == tmp_path / "a"
    assert expanded("~/a").is_absolute()
    with pytest.raises(SingError, match="SING_NONE is not set; run `export SING_NONE="):
        expanded("$SING_NONE/a")
    monkeypatch.setenv("SING_TEST", "")
    with pytest.raises(SingError, match="empty path"):
        expanded("$SING_TEST")
