"""Profiles: what a run computes, as one YAML file in ``data/profiles`` whose keys are checked."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from typing_extensions import TypedDict

from ..errors import SingError, unknown
from ..pictures.fetch import data_dir, named_folder

__all__ = [
    "Architecture", "Loss", "Profile", "build_dir", "load_profile", "parse_yaml", "profile_names",
    "unknown"]

Name = Annotated[str, Field(pattern=r"\S")]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Architecture = Literal["ridge", "linear", "mlp3", "mlp4", "residual"]
Loss = Literal["mse", "cosine", "both"]
_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxstring = 2, 100


class Costs(TypedDict, total=False):
    """What a run takes."""

    __pydantic_config__ = ConfigDict(strict=True, extra="forbid")
    hours: float
    memory_gb: float
    gpu_gb: float
    disk_gb: float
    download_gb: float
    machine: str  # that the hours are for


def count(default: int | None, least: int = 1, most: int = 100_000, *, repr: bool = True) -> Any:
    """A key that counts; beyond `most` a typing error is likelier than a wish."""
    return Field(default, ge=least, le=most, repr=repr)


class Profile(BaseModel):
    """Everything that the numbers of a run depend on; what each key means stands beside it."""

    # Keys with repr=False are not part of what every result is stored under: they change none, or
    # only tables that name them (`@stored(keys=...)`).
    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    name: str  # of the file in data/profiles, without its ending
    about: str = Field("", repr=False)  # one sentence for people
    # What is looked at: classifiers, by names for load_classifier, and the joint space.
    models: Annotated[list[Name], Field(min_length=1)]  # those that are compared
    tower: Name | None = None  # builds the ConSE space: shown as a control, never ranked
    joint_space: Name = "conse"  # for load_joint_space; any other needs no tower
    other_spaces: list[Name] = []  # where the comparison is repeated; in ConSE the towers differ
    top_classes: int = count(75)  # how many of the tower's largest logits speak in ConSE
    temperature: Positive | None = None  # of the tower's softmax, in place of top_classes
    # Pictures: `stamps`, or what folders.source_pictures takes (imagenette, imagenet:<folder>,
    # folder:<path>, huggingface:<name>).
    pictures: str = "stamps"
    picture_split: str | None = None  # part of that source, train or val
    total_pictures: int | None = count(None, most=10**9)  # every class its share; None: all
    views: int = count(12)  # of each photo stamp
    clipart_views: int = count(2, least=0)  # of each drawing; they are only fitted on
    stamp_subjects: int | None = count(None)  # so many; None: all
    clipart_files: int | None = count(None, least=0)
    # Fit on the drawings, too: auto where a folder holds few pictures and held-out error falls.
    # Unless it is none, such a folder is also dealt to fewer folds.
    also_fit: Literal["none", "default", "auto"] = "none"
    # Translators: the paper's ridge.
    published_translators: str | None = None  # folder of the authors' own, in place of fitting
    folds: int = count(5, least=2, most=1000)  # splits by subject, for held-out scores
    lambdas: Annotated[list[Positive], Field(min_length=1)] = [
        10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0, 10000.0, 30000.0]  # ridge candidates,
    lambda_unit: Literal["one", "variance"] = "one"  # times one, or a feature's mean variance
    # Controls and intervals.
    control_draws: int = count(5, most=10_000)  # random subspaces beside each null removal
    bootstrap_draws: int = count(1000, most=1_000_000)  # samples of each interval
    seed: int = count(0, least=0, most=2**32 - 1)  # of views, folds, controls and intervals
    information_draws: int = count(3, most=10_000, repr=False)  # subspaces, unique information
    kernel_size: int = count(1000, most=1_000_000, repr=False)  # of the non-linear translator there
    redeals: int = count(4, most=10_000, repr=False)  # deals to measure the translators' share
    plant_splits: int = count(3, most=10_000, repr=False)  # halvings on which concepts are planted
    plant_concepts: int = count(30, repr=False)  # candidates, at most
    plant_pictures: int = count(1600, repr=False)  # of a half, at most
    # The translator study: its classifier, grid, tested folds, views of a stamp, hidden units of
    # its networks and passes over the pictures, at most. Ridge, in closed form, has the loss mse.
    sweep_model: str = Field("lite0", repr=False)
    sweep_architectures: list[Architecture] = Field(list(get_args(Architecture)), repr=False)
    sweep_losses: list[Loss] = Field(list(get_args(Loss)), repr=False)
    sweep_folds: int = count(2, repr=False)
    sweep_views: int = count(6, repr=False)
    sweep_hidden: int = count(512, repr=False)
    sweep_epochs: int = count(60, repr=False)
    # How it runs.
    renderer: str = Field("nearest", repr=False)  # or unclip/<repository>, draws an embedding
    device: str = Field("auto", repr=False)  # a GPU if there is one; cpu, cuda, cuda:1, mps
    # Of networks; features are kept in float32. auto: bfloat16 where features stay within 0.1 %.
    precision: Literal["float32", "bfloat16", "float16"] = Field("float32", repr=False)
    workers: int = count(0, least=0, most=4096, repr=False)  # threads that decode; 0: as torch
    batch: int = count(64, repr=False)  # pictures at a time
    shards: int = count(1, repr=False)  # jobs that features and ridge statistics are split into
    expected: Costs = Field({}, repr=False)

    @property
    def sweep(self) -> list[tuple[str, str]]:
        """The translator study's grid: every architecture with every loss."""
        return [
            (architecture, loss) for architecture in self.sweep_architectures
            for loss in (["mse"] if architecture == "ridge" else self.sweep_losses)]

    @property
    def everyone(self) -> list[str]:
        """All classifiers of the run, the tower last."""
        return [*dict.fromkeys([*self.models, *([self.tower] if self.tower else [])])]

    @property
    def pair(self) -> tuple[str, str]:
        """The first two classifiers, which the prose compares; a SingError if there is but one."""
        if len(self.models) < 2:
            raise SingError(
                f"The chapters on models and classes compare two classifiers; models has only "
                f"{self.models[0]}. Name one more.")
        return self.models[0], self.models[1]

    @property
    def spaces(self) -> list[str]:
        """Joint spaces that classifiers are compared in: names, or in ConSE its towers."""
        return self.everyone if self.tower else [self.joint_space, *self.other_spaces]

    @model_validator(mode="after")
    def _together(self) -> Profile:
        """What only several keys together can say."""
        twice = sorted({name for name in self.models if self.models.count(name) > 1})
        studied = set(self.sweep_architectures)
        rules = [
            (twice, f"models names {', '.join(twice)} more than once; leave one."),
            (self.tower in self.models,
             f"The tower {self.tower} is also among the models, and a classifier is never ranked "
             f"in the space that it builds. Choose another tower or take it off the models."),
            ((self.joint_space == "conse") != (self.tower is not None),
             f"The joint space conse is built from a tower, and no other space is; got the joint "
             f"space {self.joint_space} and the tower {self.tower}. Name a tower for conse, or "
             f"none (tower: null)."),
            (self.tower and self.other_spaces,
             "other_spaces is for joint spaces without a tower; in ConSE the classifiers take "
             "turns as towers. Leave it empty."),
            (self.sweep_folds > self.folds,
             f"sweep_folds counts the folds that are tested, at most {self.folds} of them; got "
             f"{self.sweep_folds}."),
            ("ridge" not in studied or len(studied) < 2,
             "sweep_architectures needs ridge, the baseline, and one more to compare with it."),
            (not {"mse", "cosine"} <= set(self.sweep_losses),
             "sweep_losses needs mse and cosine, which are compared.")]
        for broken, message in rules:
            if broken:
                raise SingError(message)
        return self


def profile_names() -> list[str]:
    """Names of the profiles in ``data/profiles``."""
    return sorted(path.stem for path in (data_dir() / "profiles").glob("*.yaml"))


def load_profile(name: str, overrides: Mapping[str, object] | None = None) -> Profile:
    """Read a profile and lay overrides over it."""
    if name not in profile_names():
        raise unknown("profile", name, profile_names())
    path = data_dir() / "profiles" / f"{name}.yaml"
    try:
        content = parse_yaml(path.read_text(encoding="utf-8"), str(path)) or {}
    except UnicodeDecodeError as error:
        raise SingError(f"{path} is not UTF-8 text ({error}); save it as such.") from error
    except OSError as error:
        raise SingError(f"{path} cannot be read ({error.strerror or error}).") from error
    if not isinstance(content, Mapping):
        raise SingError(f"{path} needs lines of the form `key: value`; see offline.yaml beside it.")
    overrides = dict(overrides or {})
    known = set(Profile.model_fields) - {"name"}
    for where, source in ((path, content), ("the overrides", overrides)):
        for key in source:
            if key not in known:
                raise unknown(f"profile key (in {where})", key, known)
    try:
        return Profile.model_validate({"name": name, **content, **overrides})
    except ValidationError as error:
        raise _refusal(error.errors(include_url=False)[0], path, overrides) from None


def _refusal(wrong: Mapping, path: Path, overrides: Mapping) -> SingError:
    """The first of pydantic's complaints: where, what was expected and what came."""
    said, place = wrong.get("ctx", {}), [str(part) for part in wrong["loc"]]
    if isinstance(said.get("error"), SingError):
        return said["error"]
    where = "the overrides" if place[0] in overrides else path
    if wrong["type"] == "missing":
        return SingError(f"{path} lacks {place[0]}; see data/profiles/offline.yaml.")
    if wrong["type"] == "literal_error" and isinstance(wrong["input"], str):
        return unknown(place[0], wrong["input"], re.findall(r"'([^']*)'", said["expected"]))
    if wrong["type"] == "extra_forbidden":
        return unknown(f"key of {place[0]}", place[1], Costs.__annotations__)
    # Shortened: a few lines of YAML can stand for billions of items.
    got = f"{_SHORT.repr(wrong['input'])} ({type(wrong['input']).__name__})"
    return SingError(f"{' '.join(place)} in {where}: {wrong['msg']}; got {got}.")


class _Strict(yaml.SafeLoader):
    """YAML in which a key that stands twice is an error; of its own accord the last one counts."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        keys = [(key.value, key.start_mark) for key, _ in node.value
                if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge"]
        for at, (key, mark) in enumerate(keys):
            if key in [earlier for earlier, _ in keys[:at]]:
                raise yaml.constructor.ConstructorError(
                    None, None, f"{key!r} stands there twice; leave one", mark)
        return super().construct_mapping(node, deep)


def parse_yaml(text: str, where: str) -> object:
    """YAML as plain values, or a SingError: no code is run, and no key stands twice."""
    try:
        return yaml.load(text, Loader=_Strict)
    except yaml.YAMLError as error:
        said = " ".join(str(error).split()).replace('"<unicode string>", ', "")
        raise SingError(f"{where} is not YAML: {said}") from error
    except RecursionError as error:
        raise SingError(f"{where} is nested too deeply to be read as YAML.") from error


def build_dir(profile: str) -> Path:
    """Where a profile's results lie: ``$SING_BUILD`` or ``_build`` of the checkout."""
    return (named_folder("SING_BUILD") or data_dir().parent / "_build") / profile
