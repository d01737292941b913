from __future__ import annotations

import hashlib
import io
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from sing_nb.errors import SingError
from sing_nb.pictures.labels import ClassName
from sing_nb.pictures.subsets import Seen, check_counts, choose_pictures, content_hash

SIZES = {"a": 3, "b": 10, "c": 10, "d": 50}
NAMED = {name: ClassName(name, -1) for name in SIZES}
FILES = {name: [f"{name}{i}" for i in range(size)] for name, size in SIZES.items()}


def look(pairs):
    return {pair: Seen(pair[1], pair[1], hashlib.sha256(pair[1].encode()).hexdigest())
            for pair in pairs}


def choose(total=None, per_class=None, seed=0, files=FILES, look=look):
    return choose_pictures(files, NAMED, look, per_class, total, seed, "the test")


@pytest.mark.parametrize("total", [4, 5, 12, 13, 22, 40, 73])
def test_classes_get_equal_shares_and_what_small_ones_lack_goes_to_others(total):
    counts = choose(total)["label"].value_counts()
    # The level up to which every class is filled, found by trying them all.
    level = max(n for n in range(51) if sum(min(s, n) for s in SIZES.values()) <= total)
    for name, size in SIZES.items():
        assert min(size, level) <= counts[name] <= min(size, level + 1)
    assert counts.sum() == total


def test_a_smaller_subset_lies_within_a_larger_one():
    before = set()
    for total in range(2, 74, 5):
        now = set(choose(total)["path"])
        assert before <= now
        assert len(now) == total
        before = now


def test_the_choice_follows_from_the_seed_and_not_from_the_order_of_the_files():
    first = choose(20)
    mixed = {name: FILES[name][::-1] for name in reversed(FILES)}
    assert choose(20, files=mixed).equals(first)
    assert set(choose(20, seed=1)["path"]) != set(first["path"])
    # All of a class is equally likely: 400 seeds, 5 of 50 each time, 40 times each on average.
    drawn = Counter(p for seed in range(400) for p in choose(per_class=5, seed=seed)["path"])
    of_d = np.array([drawn[path] for path in FILES["d"]])
    assert abs(of_d - 40).max() < 5 * np.sqrt(400 * 0.1 * 0.9)


def test_a_picture_that_cannot_be_used_is_replaced_within_its_class(capsys):
    plain = choose(12)
    bad = set(plain.loc[plain["label"] == "d", "path"])

    def picky(pairs):
        return {pair: f"{pair[1]} is broken" if pair[1] in bad else seen
                for pair, seen in look(pairs).items()}

    found = choose(12, look=picky)
    assert found["label"].value_counts().equals(plain["label"].value_counts())
    assert not set(found["path"]) & bad
    assert {(one["path"], one["reason"]) for one in found.attrs["skipped"]} == {
        (f"d/{path}", f"{path} is broken") for path in bad
    }
    assert f"{len(bad)} pictures of the test were skipped" in capsys.readouterr().err
    # Smaller subsets lie within larger ones with such pictures too.
    assert set(choose(11, look=picky)["path"]) < set(found["path"])


def test_equal_contents_are_taken_once(capsys):
    def same(pairs):
        return {pair: seen._replace(sha="0" * 64) if pair[0] in "ab" else seen
                for pair, seen in look(pairs).items()}

    found = choose(look=same)
    assert found["label"].isin(["a", "b"]).sum() == 1
    assert len(found) == 1 + 10 + 50
    assert "has the same content as" in capsys.readouterr().err


def test_fewer_pictures_than_asked_are_given_and_said(capsys):
    assert len(choose(100)) == 73
    assert "100 pictures of the test were asked for, and 73 are there." in capsys.readouterr().err
    assert len(choose(per_class=10)) == 3 + 30
    assert "1 of 4 classes of the test have fewer than 10" in capsys.readouterr().err
    assert len(choose(total=20, per_class=4)) == 3 + 12
    assert "15 are there with at most 4 of a class" in capsys.readouterr().err
    choose(per_class=3)
    assert capsys.readouterr().err == ""


def test_nothing_usable_is_an_error():
    with pytest.raises(SingError, match=r"no two classes with pictures.*73 were skipped: "):
        choose(look=lambda pairs: dict.fromkeys(pairs, "broken"))


@pytest.mark.parametrize("wrong", [0, -1, 1.5, True])
def test_numbers_of_pictures_are_checked(wrong):
    with pytest.raises(SingError, match=f"per_class .*at least 1; got {wrong}"):
        check_counts(wrong, None)
    with pytest.raises(SingError, match="total"):
        check_counts(None, wrong)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_a_file_that_was_cut_off_is_told_from_a_whole_one(kind):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, kind)
    data = buffer.getvalue()
    assert content_hash(data, "x") == (hashlib.sha256(data).hexdigest(), kind)
    with pytest.raises(SingError, match="half of x"):
        content_hash(data[: len(data) // 2], "half of x")
    # What follows the end of a picture does no harm.
    assert content_hash(data + b"\0\0", "x")[1] == kind
    with pytest.raises(SingError, match="nothing is empty"):
        content_hash(b"", "nothing")
