from __future__ import annotations

import copy
import json
from types import SimpleNamespace

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ends
from sklearn.linear_model import Ridge

import sing_nb.book.chapters
import sing_nb.cli as cli
from sing_nb import Study
from sing_nb.errors import SingError
from sing_nb.study import comparison
from sing_nb.study.comparison import Run, find, run, run_folder, runs, split


@pytest.fixture(scope="module")
def warm():
    """The smoke pictures in three folds, two of them tested, features in memory."""
    study = Study("smoke", progress=False, folds=3, sweep_folds=2)
    study.features(study.config.sweep_model), study.embeddings
    return study


@pytest.fixture
def study(warm, tmp_path):
    """The same with an empty folder for runs."""
    other = copy.copy(warm)
    other.folder, other._tables = tmp_path, {}
    return other


# --- who sees whom ------------------------------------------------------------------------------


@pytest.mark.parametrize("fold", [0, 1, 2])
def test_no_subject_is_in_two_parts(warm, fold):
    parts = [warm.pictures.iloc[rows] for rows in split(warm, fold)]
    subjects = [set(part["subject"]) for part in parts]
    assert all(subjects)
    assert sum(map(len, subjects)) == len(set.union(*subjects))
    train, validation, test = parts
    assert set(validation["source"]) == set(test["source"]) == {"stamp"}
    assert set(train["source"]) == {"stamp", "clipart"}
    assert set(test["fold"]) == {fold}
    assert set(validation["fold"]) == {(fold + 1) % 3}
    stamps = pd.concat(parts)[lambda table: table["source"] == "stamp"]
    assert set(stamps["view"]) == {0, 1}  # sweep_views
    assert set(stamps["subject"]) == set(warm.subjects["subject"])
    drawings = train[train["source"] == "clipart"]
    assert len(drawings) == drawings["path"].nunique() == warm.config.clipart_files


def test_two_folds_leave_nothing_to_fit_on_without_clip_art(study):
    study.config = study.config.model_copy(update={"folds": 2})
    photos = study.pictures[study.is_scored]
    study.__dict__["pictures"] = photos.assign(fold=photos["fold"] % 2).reset_index(drop=True)
    study.__dict__["is_scored"] = np.ones(len(photos), dtype=bool)
    with pytest.raises(SingError, match="none is left to fit on"):
        split(study, 0)


def test_what_is_trained_on_and_tested_keeps_apart(study, monkeypatch):
    seen = []
    real = comparison.train

    def spy(module, rows, validation, *args, **kwargs):
        seen.append((rows, validation))
        return real(module, rows, validation, *args, **kwargs)

    monkeypatch.setattr(comparison, "train", spy)
    found = run(study, "mlp3", "mse")
    f, z, table = study.features("lite0"), study.embeddings, study.pictures
    assert len(seen) == 2
    for fold, (rows, validation) in enumerate(seen):
        tested = found.pictures.loc[found.pictures["fold"] == fold, "picture"]
        wanted = table[(table["fold"] == fold) & (table["view"] < 2)]["picture"]
        assert list(tested) == list(wanted)
        own = f[torch.tensor(table["picture"].isin(tested).to_numpy())]
        for given in (rows, validation):
            assert torch.cdist(own, given[0]).min() > 0
        assert torch.cdist(validation[0], rows[0]).min() > 0
        # Features and targets belong together.
        place = torch.cdist(rows[0], f).argmin(1)
        assert torch.equal(z[place], rows[1])


def test_ridge_is_that_of_scikit_learn_on_the_same_rows(study):
    found = run(study, "ridge", "mse")
    f, z = (t.numpy().astype(float) for t in (study.features("lite0"), study.embeddings))
    for fold, card in enumerate(found.card["folds"]):
        train, validation, test = split(study, fold)
        errors, answers = {}, {}
        for lam in study.config.lambdas:
            fitted = Ridge(alpha=lam).fit(f[train], z[train])
            gap = fitted.predict(f[validation]) - z[validation]
            errors[lam] = (gap**2).sum(1).mean()
            answers[lam] = fitted.predict(f[test])
        lam = min(errors, key=errors.get)
        assert card["lambda"] == lam
        rows = found.pictures[found.pictures["fold"] == fold]
        answer, truth = answers[lam], z[test]
        np.testing.assert_allclose(
            rows["squared_error"], ((answer - truth) ** 2).sum(1), rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(
            rows["target_energy"], ((truth - truth.mean(0)) ** 2).sum(1), rtol=1e-4)
        lengths = np.linalg.norm(answer, axis=1) * np.linalg.norm(truth, axis=1)
        cosine = (answer * truth).sum(1) / lengths
        np.testing.assert_allclose(rows["cosine"], cosine, atol=1e-4)
        np.testing.assert_allclose(rows["angle"], np.degrees(np.arccos(cosine)), atol=2e-2)
        mean = z[train].mean(0)
        constant = truth @ mean / np.linalg.norm(mean) / np.linalg.norm(truth, axis=1)
        np.testing.assert_allclose(rows["constant_cosine"], constant, atol=1e-5)
        np.testing.assert_allclose(
            rows["constant_angle"], np.degrees(np.arccos(constant)), atol=1e-2)
        curve = found.curve[found.curve["fold"] == fold]
        assert curve["validation_mse"].item() == pytest.approx(errors[lam], rel=1e-3)


def test_embeddings_are_those_of_the_pictures(study):
    found = run(study, "linear", "cosine")
    rows = [study.row(name) for name in found.pictures["picture"]]
    truth = study.embeddings[rows].numpy().astype(float)
    answer = found.embeddings.numpy().astype(float)
    lengths = np.linalg.norm(answer, axis=1) * np.linalg.norm(truth, axis=1)
    np.testing.assert_allclose(
        found.pictures["cosine"], (answer * truth).sum(1) / lengths, atol=2e-3)
    assert found.card["parameters"] == 1280 * 384 + 384
    assert found.card["folds"][0]["epochs"] == 2 == found.curve["epoch"].max()


# --- keeping ------------------------------------------------------------------------------------


def test_a_finished_run_is_read_and_not_trained_again(study, monkeypatch):
    assert find(study, "mlp3", "mse") is None
    first = run(study, "mlp3", "mse")
    monkeypatch.setattr(comparison, "train", lambda *a, **k: pytest.fail("trained again"))
    second = run(study, "mlp3", "mse")
    pd.testing.assert_frame_equal(first.pictures, second.pictures)
    pd.testing.assert_frame_equal(first.curve, second.curve)
    assert torch.equal(first.embeddings, second.embeddings)
    assert first.card == second.card


def test_a_run_that_was_killed_is_computed_again_with_the_same_bits(study):
    first = run(study, "mlp3", "cosine")
    (run_folder(study, "mlp3", "cosine") / "card.json").unlink()
    assert find(study, "mlp3", "cosine") is None
    assert torch.equal(run(study, "mlp3", "cosine").embeddings, first.embeddings)


def test_a_run_is_named_by_what_it_depends_on(warm):
    def key(architecture, **overrides):
        other = Study("smoke", progress=False, **{"folds": 3, "sweep_folds": 2, **overrides})
        other._keys = warm._keys  # the pictures are the same
        return run_folder(other, architecture, "mse").name

    for change in ({"sweep_epochs": 3}, {"sweep_hidden": 16}):
        assert key("mlp3", **change) != key("mlp3")
        assert key("ridge", **change) == key("ridge")
    assert key("ridge", lambdas=[1.0]) != key("ridge")
    assert key("mlp3", lambdas=[1.0]) == key("mlp3")
    for change in ({"sweep_folds": 1}, {"sweep_views": 1}, {"top_classes": 50}):
        assert key("mlp3", **change) != key("mlp3")
        assert key("ridge", **change) != key("ridge")
    same = {"bootstrap_draws": 7, "sweep_losses": ["cosine", "mse", "both"]}
    assert key("mlp3", **same) == key("mlp3")


def test_sweep_keys_leave_other_results_alone(warm):
    other = Study("smoke", progress=False, folds=3, sweep_folds=1, sweep_hidden=5)
    assert other.key("table") == warm.key("table")


def test_a_cell_outside_the_grid_is_refused(study):
    with pytest.raises(SingError, match="Unknown cell of the grid 'ridge cosine'"):
        run(study, "ridge", "cosine")
    assert not (study.folder / "sweeps").exists()


def test_all_runs_are_gathered_in_the_order_of_the_grid(study):
    found = runs(study, progress=False)
    cells = [(one.card["architecture"], one.card["loss"]) for one in found]
    assert cells == study.config.sweep
    assert cells[0] == ("ridge", "mse")
    assert len(cells) == 5


# --- tables, on planted runs --------------------------------------------------------------------

STUB = SimpleNamespace(
    config=SimpleNamespace(bootstrap_draws=2000, seed=0), stored=lambda name, compute: compute(),
    interval=lambda *arguments: Study.interval(STUB, *arguments),
)
SUBJECTS, VIEWS = 40, 5


def planted(architecture, loss, gain=0.0, noise=0.02, seed=1):
    """A run whose cosines are a subject's difficulty, a gain, and noise."""
    hard = np.random.default_rng(0).normal(0.7, 0.1, SUBJECTS).repeat(VIEWS)
    rng = np.random.default_rng(seed)
    cosine = hard + gain + noise * rng.standard_normal(len(hard))
    pictures = pd.DataFrame({
        "picture": [f"p{i}" for i in range(len(hard))],
        "subject": np.arange(SUBJECTS).repeat(VIEWS).astype(str), "label": "x",
        "fold": np.arange(len(hard)) % 2, "cosine": cosine, "angle": 90 - 60 * cosine,
        "squared_error": 2 - 2 * cosine, "target_energy": 0.5 + rng.random(len(hard)),
        "constant_cosine": 0.1, "constant_angle": 84.0,
    })
    card = {"architecture": architecture, "loss": loss, "key": f"{architecture}{loss}{gain}",
            "parameters": 3,
            "folds": [{"fold": 0, "best": 2, "stopped": True},
                      {"fold": 1, "best": 5, "stopped": False}]}
    return Run(card, pd.DataFrame(), pictures, torch.zeros(len(hard), 3))


def bootstrap(values, subjects, statistic, draws=4000, level=0.95):
    """By hand: whole subjects with replacement, percentiles."""
    rng = np.random.default_rng(123)
    groups = [np.flatnonzero(subjects == name) for name in np.unique(subjects)]
    found = [
        statistic(values[np.concatenate([groups[i] for i in rng.integers(len(groups),
                                                                         size=len(groups))])])
        for _ in range(draws)
    ]
    return np.quantile(found, ends(len(groups), level))


def test_the_table_is_numpys_on_the_pictures():
    found = [planted("ridge", "mse"), planted("mlp3", "mse", 0.05, seed=2)]
    table = comparison.architecture_table(STUB, found)
    assert table["architecture"].tolist() == ["ridge", "mlp3", "constant"]
    for one, (_, row) in zip(found, table.iterrows()):
        p, subject = one.pictures, one.pictures["subject"].to_numpy()
        assert row["cosine"] == pytest.approx(p["cosine"].mean())
        assert row["angle"] == pytest.approx(p["angle"].mean())
        r2 = 1 - p["squared_error"].sum() / p["target_energy"].sum()
        assert row["r2"] == pytest.approx(r2)
        assert (row["parameters"], row["best"], row["cut"]) == (3, 3.5, 1)
        pairs = p[["squared_error", "target_energy"]].to_numpy()
        for name, values, statistic in (
            ("cosine", p["cosine"].to_numpy(), np.mean),
            ("angle", p["angle"].to_numpy(), np.mean),
            ("r2", pairs, lambda v: 1 - v[:, 0].sum() / v[:, 1].sum()),
        ):
            low, high = bootstrap(values, subject, statistic)
            tolerance = 0.1 * (high - low)
            assert row[f"{name}_low"] == pytest.approx(low, abs=tolerance)
            assert row[f"{name}_high"] == pytest.approx(high, abs=tolerance)
    constant = table.iloc[-1]
    assert (constant["cosine"], constant["angle"]) == (pytest.approx(0.1), pytest.approx(84))
    assert np.isnan(constant["r2"])


def test_differences_are_paired_and_adjusted_for_all_that_are_shown():
    ridge = planted("ridge", "mse")
    found = [ridge, planted("linear", "mse", 0.02, seed=2), planted("mlp3", "mse", 0.02, seed=3),
             planted("mlp4", "mse", 0.0, seed=4), planted("residual", "mse", -0.02, seed=5)]
    table = comparison.paired_differences(STUB, found)
    assert len(table) == 8
    assert set(table["comparisons"]) == {8}
    subject = ridge.pictures["subject"].to_numpy()
    for one in found[1:]:
        rows = table[table["architecture"] == one.card["architecture"]].set_index("measure")
        gap = (one.pictures["cosine"] - ridge.pictures["cosine"]).to_numpy()
        row = rows.loc["cosine"]
        assert row["value"] == pytest.approx(gap.mean())
        assert rows.loc["angle", "value"] == pytest.approx(-60 * gap.mean())
        for suffix, level in (("", 0.95), ("_adjusted", 1 - 0.05 / 8)):
            low, high = bootstrap(gap, subject, np.mean, draws=8000, level=level)
            assert row[f"low{suffix}"] == pytest.approx(low, abs=0.12 * (high - low))
            assert row[f"high{suffix}"] == pytest.approx(high, abs=0.12 * (high - low))
        # Subjects differ by 0.1; pairing takes that out of the interval.
        assert row["high"] - row["low"] < 0.02
    marks = table.set_index(["architecture", "measure"])[["better", "worse"]]
    for measure in ("cosine", "angle"):
        assert marks.loc[("linear", measure)].tolist() == [True, False]
        assert marks.loc[("mlp3", measure)].tolist() == [True, False]
        assert marks.loc[("mlp4", measure)].tolist() == [False, False]
        assert marks.loc[("residual", measure)].tolist() == [False, True]
    # The question is about networks: the linear one does not answer it.
    winners = comparison.beats_ridge(table)
    assert winners["architecture"].tolist() == ["mlp3", "mlp3"]
    assert comparison.beats_ridge(table[table["architecture"] != "mlp3"]).empty


def test_pairs_are_found_by_picture_and_not_by_place():
    ridge, other = planted("ridge", "mse"), planted("mlp3", "mse", 0.02, seed=3)
    straight = comparison.paired_differences(STUB, [ridge, other])
    mixed = other._replace(pictures=other.pictures.sample(frac=1, random_state=0))
    shuffled = comparison.paired_differences(STUB, [ridge, mixed])
    columns = ["value", "low", "high"]
    np.testing.assert_allclose(shuffled[columns], straight[columns], atol=2e-3)


# --- the command line ---------------------------------------------------------------------------


def test_one_run_through_papermill(smoke):
    assert cli.main(["sweep", "--profile", "smoke", "--architecture", "ridge", "--loss", "mse",
                     "--threads", "1"]) == 0
    path = smoke.folder / "sweeps" / "notebooks" / "ridge-mse.ipynb"
    notebook = nbformat.read(path, as_version=4)
    asked = notebook.metadata["papermill"]["parameters"]
    assert (asked["architecture"], asked["loss"], asked["profile"]) == ("ridge", "mse", "smoke")
    text = json.dumps(notebook)
    assert "lambda" in text
    assert "validation_mse" in text
    assert find(smoke, "ridge", "mse").card["architecture"] == "ridge"


def test_a_sweep_runs_every_cell_of_the_grid(monkeypatch, tmp_path):
    called = []
    monkeypatch.setenv("SING_BUILD", str(tmp_path))
    monkeypatch.setattr(
        sing_nb.book.chapters, "run_chapter",
        lambda *args, name, **kwargs: called.append((name, args[4])),
    )
    assert cli.main(["sweep", "--profile", "smoke"]) == 0
    assert [name for name, _ in called] == ["ridge-mse", "linear-mse", "linear-cosine", "mlp3-mse",
                                            "mlp3-cosine"]
    assert called[-1][1] == {"architecture": "mlp3", "loss": "cosine"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--architecture", "mlp3"], "Unknown run of the grid 'mlp3 None'"),
        (["--architecture", "mpl3", "--loss", "mse"], "'mpl3 mse'; did you mean 'mlp3 mse'"),
        (["--architecture", "ridge", "--loss", "cosine"], "Unknown run of the grid"),
        (["--set", "architecture=mlp3"], "Unknown setting 'architecture'"),
        (["--set", "sweep_losses=[mse]"], "sweep_losses needs mse and cosine"),
        (["--set", "sweep_architectures=[linear]"], "sweep_architectures needs ridge"),
        (["--set", "sweep_architectures=[ridge, mpl3]"], "did you mean 'mlp3'"),
        (["--set", "sweep_folds=3"], "at most 2 of them; got 3"),
    ],
)
def test_wrong_sweeps_are_refused_before_anything_runs(options, message, capsys, monkeypatch):
    monkeypatch.setattr(
        sing_nb.book.chapters, "run_chapter", lambda *a, **k: pytest.fail("something ran"))
    options = [o if "=[" not in o else o.replace(", ", ",") for o in options]
    assert cli.main(["sweep", "--profile", "smoke", *options]) == 1
    assert message in capsys.readouterr().err
