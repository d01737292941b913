"""The tables of a report on a folder of pictures, and that its sentences follow from them."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest
import torch
from miniatures import class_picture
from torch import nn

import sing_nb
from sing_nb.reports import report_tables
from sing_nb.reports.words import first_screen
from sing_nb.study import tables as study_tables
from sing_nb.study.tables import KINDS

NULL, CONTROL = KINDS
LABELS = ("zebra", "teapot", "*a* <b> [x]", "snail")


class Small(nn.Module):
    """Means of a picture's colours in a grid: 48 features, a head of any size."""

    def __init__(self, classes, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.pool, self.fc = nn.AdaptiveAvgPool2d(4), nn.Linear(48, classes)

    def forward(self, x):
        return self.fc(self.pool(x).flatten(1))


def transform(picture):
    pixels = np.asarray(picture.convert("RGB").resize((32, 32)), dtype=np.float32) / 255
    return torch.tensor(pixels).permute(2, 0, 1)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    home = tmp_path_factory.mktemp("pictures")
    for which, label in enumerate(LABELS):
        (home / label).mkdir()
        for number in range(6):
            class_picture(which, number, (64, 48)).save(home / label / f"{number}.png")
    (home / "zebra" / "broken.png").write_bytes(b"no picture")
    settings = {"folds": 3, "control_draws": 2, "bootstrap_draws": 60, "redeals": 2,
                "information_draws": 1, "also_fit": "none"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SING_BUILD", str(tmp_path_factory.mktemp("build")))
        patch.setattr(sing_nb.Study, "concepts", ["snow", "a hand", "stripes"])
        found = sing_nb.Study("report", pictures=f"folder:{home}", progress=False, **settings)
        for name, classes in (("own", 4), ("other", 9)):
            names = [label.upper() for label in LABELS] if classes == 4 else None
            found.add(sing_nb.wrap_classifier(Small(classes), transform, names, name=name))
        yield found


@pytest.fixture(scope="module")
def tables(study):
    return report_tables.tables(study, "own", ["red", "blue"], "other")


@pytest.fixture(scope="module")
def plain(study):
    """Features, head and null space of the scored pictures, by NumPy alone."""
    rows = np.flatnonzero(study.is_scored)
    f = study.features("own")[rows].double().numpy()
    weight = study.classifier("own").head.weight.double().numpy()
    null = np.linalg.svd(weight)[2][4:]
    return rows, f, weight, null


def test_the_head_is_described_as_numpy_finds_it(study, tables, plain):
    rows, f, weight, null = plain
    row = tables["head"].set_index("model").loc["own"]
    assert (row["classes"], row["features"], row["rank"], row["null_dim"]) == (4, 48, 4, 44)
    share = ((f @ null.T) ** 2).sum(1) / (f**2).sum(1)
    assert row["null_share"] == pytest.approx(share.mean(), rel=1e-5)
    assert row["null_share_low"] <= share.mean() <= row["null_share_high"]
    assert row["null_share_control"] == 44 / 48
    assert row["logit_change"] < 1e-5 < row["logit_change_control"]
    # Labels are found among class names whatever their case.
    logits = f @ weight.T + study.classifier("own").head.bias.double().numpy()
    truth = study.pictures["label"].iloc[rows].map({x: i for i, x in enumerate(LABELS)})
    assert row["accuracy"] == pytest.approx((logits.argmax(1) == truth).mean())
    assert row["named"] == row["pictures"] == row["subjects"] == 24
    assert np.isnan(tables["head"].set_index("model").loc["other", "accuracy"])


def test_scores_are_those_of_numpy(study, tables, plain):
    rows, f, _, null = plain
    fold = study.pictures["fold"].to_numpy()[rows]
    turned = np.empty(len(rows))
    for number in set(fold):
        own = fold == number
        fitted = study.translators("own")[number]
        maps = [fitted.weight.double().numpy() @ x.T + fitted.bias.double().numpy()[:, None]
                for x in (f[own], f[own] - f[own] @ null.T @ null)]
        cosine = (maps[0] * maps[1]).sum(0) / np.prod([np.linalg.norm(z, axis=0) for z in maps], 0)
        turned[own] = np.degrees(np.arccos(cosine.clip(-1, 1)))
    scores = tables["scores"].set_index(["model", "quantity", "kind"])["value"]
    assert scores["own", "image_score", NULL] == pytest.approx(np.median(turned), rel=1e-4)
    photos = tables["photos"]
    assert photos["image_score"].tolist() == pytest.approx(
        np.sort(turned)[::-1][: report_tables.PHOTOS], rel=1e-3)


def test_classes_are_ranked_by_what_exceeds_the_control(study, tables):
    table = tables["classes"]
    assert sorted(table["label"]) == sorted(LABELS)
    assert table["is_excess"].is_monotonic_decreasing
    images = study_tables.images(study, "own")
    own = images[(images["label"] == "zebra") & (images["source"] == "folder")]
    gap = (own["image_score"] - own["image_score_control"]).median()
    assert table.set_index("label").loc["zebra", "is_excess"] == pytest.approx(gap)
    assert ((table["is_excess_low"] > 0) == (table["verdict"] == "more than chance")).all()
    assert ((table["is_excess_high"] < 0) == (table["verdict"] == "less than chance")).all()


def bullets(text):
    return {re.match(r"- \*\*(.*?)\*\*", line).group(1).rstrip("."): line
            for line in text.splitlines() if line.startswith("- **")}


def test_the_first_screen_says_what_the_tables_hold(study, tables):
    text = first_screen(study, "own", tables)
    said = bullets(text)
    assert "48 numbers about a picture into 4 classes, along 4 directions" in text
    scores = tables["scores"].query("model == 'own'").set_index(["quantity", "kind"])
    for kind in KINDS:
        assert f"{scores.loc[('image_score', kind), 'value']:.1f}°" in text
    assert "24 pictures of 24 subjects" in said["How sure"]
    assert "1 file could not be used" in said["How sure"]
    assert "<b>" not in text  # a folder's name is words, whatever stands in it
    assert "[x]" not in text


def changed(tables, quantity, kind, low, high):
    scores = tables["scores"].copy()
    at = (scores["quantity"] == quantity) & (scores["kind"] == kind) & (scores["model"] == "own")
    scores.loc[at, ["low", "high"]] = low, high
    return {**tables, "scores": scores}


@pytest.mark.parametrize(("low", "high", "words"), [
    (1.0, 3.0, "more than the"), (-3.0, -1.0, "less than the"), (-1.0, 1.0, "not to be told from")])
def test_a_score_is_held_against_its_control_by_rule(study, tables, low, high, words):
    useful = changed(tables, "translator_error", "held out", 1, 2)
    text = first_screen(study, "own", changed(useful, "image_score_excess", NULL, low, high))
    assert words in bullets(text)["How much meaning goes with it"]


@pytest.mark.parametrize(("answers", "said"), [
    ({"snow": ("ignores it", 0.6, 0.1), "sand": ("ignores it", 0.4, 0.9),
      "fur": ("keeps it", 0.0, 0.1)}, "own ignores snow: more of it .* that can be told .* 2"),
    ({"sand": ("ignores it", 0.4, 0.9)}, "own ignores sand, but a random view"),
    ({"fur": ("keeps it", 0.04, 0.5), "fish": ("keeps it", 0.02, 0.5),
      "hat": ("cannot be told", 0.3, 0.5)}, "own ignores none of the 2 .* 3 % .* 50 %"),
    ({"hat": ("cannot be told", 0.3, 0.5)}, "It cannot be told here what own ignores")])
def test_the_headline_follows_the_verdicts(study, tables, answers, said):
    rows = [{"model": "own", "title": "own", "prompt": word, "verdict": verdict, "hidden": hidden,
             "hidden_low": hidden - 0.1, "hidden_high": hidden + 0.1, "hidden_control": control,
             "hidden_control_high": control + 0.1, "full": 0.5, "why": ""}
            for word, (verdict, hidden, control) in answers.items()]
    given = {**tables, "factors": tables["factors"].iloc[:0], "concepts": pd.DataFrame(rows)}
    assert re.match(rf"\*\*{said}", first_screen(study, "own", given))


def test_a_translator_no_better_than_a_guess_is_said_first_and_nothing_rests_on_it(study, tables):
    held_out = changed(tables, "translator_error", "held out", 30, 40)
    good = first_screen(study, "own", changed(held_out, "translator_error", "constant", 50, 60))
    assert "hardly better" not in good
    poor = first_screen(study, "own", changed(held_out, "translator_error", "constant", 35, 60))
    assert "hardly better" in poor.splitlines()[2]
    assert not {"How much meaning goes with it", "What to look at"} & set(bullets(poor))
