from __future__ import annotations

import pytest

from sing_nb.errors import SingError
from sing_nb.pictures.labels import match_labels, name_classes, unmatched


def named(*names):
    found, notes = name_classes(names, "the test")
    assert notes == []
    return {name: one[:2] for name, one in found.items()}


def test_synsets_get_the_curated_name_and_their_place():
    # Places as in the published list of the 1000 synsets; the last two are of the larger ImageNet.
    assert named("n01440764", "n02979186", "n15075141", "n00007846", "n02084071") == {
        "n01440764": ("tench", 0), "n02979186": ("cassette player", 482),
        "n15075141": ("toilet paper", 999), "n00007846": ("person", -1), "n02084071": ("dog", -1)}


def test_no_two_of_imagenets_classes_have_one_label():
    from timm.data import ImageNetInfo

    wnids = ImageNetInfo("imagenet-1k").label_names()
    found = named(*wnids)  # the curated names have "missile" and "sunglasses" twice
    assert len({label.casefold() for label, _ in found.values()}) == 1000
    assert [index for _, index in found.values()] == list(range(1000))


def test_words_are_labels_and_their_class_is_the_one_they_mean():
    assert named("Golf_ball", "garbage-truck", "crane", "my_cat", "T-shirt", "001.tench") == {
        "Golf_ball": ("Golf ball", 574), "garbage-truck": ("garbage truck", 569),
        "crane": ("crane", -1),  # the bird or the machine
        "my_cat": ("my cat", -1), "T-shirt": ("T shirt", 610), "001.tench": ("tench", 0)}
    assert named("tench, Tinca tinca") == {"tench, Tinca tinca": ("tench", 0)}


@pytest.mark.parametrize(("names", "labels"), [
    (["10_rupees", "20_rupees", "50_rupees", "background"],
     ["10 rupees", "20 rupees", "50 rupees", "background"]),
    (["1 euro", "2 euro"], ["1 euro", "2 euro"]),
    (["2_door_car", "4_door_car"], ["2 door car", "4 door car"]),
    (["001.tench", "134.crane", "517.crane"], ["tench", "134.crane", "517.crane"]),
    (["crane, bird", "crane, machine"], ["crane, bird", "crane, machine"]),
    (["7_cat", "cat"], ["7 cat", "cat"])])
def test_what_tells_names_apart_is_kept(names, labels):
    assert [label for label, _ in named(*names).values()] == labels


def test_names_of_one_class_are_named():
    found, notes = name_classes(["My_Dog", "hen", "my-dog"], "the test")
    assert [one.label for one in found.values()] == ["My Dog", "hen", "My Dog"]
    assert len(notes) == 1
    assert "my-dog and My_Dog" in notes[0]


def test_names_without_words_are_refused():
    with pytest.raises(SingError, match=r"'0' of the test has no name in words"):
        named("tench", "0")


# --- labels and logits --------------------------------------------------------------------------


@pytest.mark.parametrize(("labels", "classes", "found"), [
    # Class names as torchvision's ImageFolder gives them: names of folders.
    (["fire truck", "tiger", "zebra"], ["fire_truck", "Tiger", "zebra"], [0, 1, 2]),
    (["tench", "hen"], ["n01514668", "n01440764"], [1, None]),  # rooster, tench
    (["tiger", "hen"], ["002.hen", "001.tiger"], [1, 0]),
    (["10 rupees", "20 rupees"], ["20_rupees", "10_rupees"], [1, 0]),
    (["rupees"], ["20_rupees", "10_rupees"], [None]),
    (["crane"], ["crane, bird", "crane, machine"], [None]),
    (["tench", "church"], ["tench, Tinca tinca", "church, church building"], [0, 1]),
    (["10 rupees"], ["10_rupees", "dollar"], [0]),
    (["10 rupees", "20 rupees"], ["10_rupees", "dollar"], [None, None]),  # or both would be one
    (["cafe\u0301"], ["café"], [0])])
def test_labels_and_logits_are_matched_one_to_one(labels, classes, found):
    expected = {label: place for label, place in zip(labels, found) if place is not None}
    assert match_labels(labels, classes) == expected


def test_what_matches_nothing_is_named():
    said = unmatched(["tiger", "fire truck", "owl"], ["fire_truck", "tiger", "zebra"], "mine")
    assert said.startswith("1 of 3 labels of the pictures are no class of mine")
    assert "owl" in said
    assert "zebra" in said
    assert unmatched(["tiger"], ["tiger", "zebra"], "mine") == ""
