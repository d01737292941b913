"""Profiles: what a run computes, as one YAML file in ``data/profiles`` whose keys are checked."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import math
import reprlib
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from ..errors import SingError
from ..pictures.fetch import data_dir, named_folder

__all__ = [
    "Profile", "build_dir", "cast", "load_profile", "parse_yaml", "profile_names", "unknown",
]

SWEEP_ARCHITECTURES = ("ridge", "linear", "mlp3", "mlp4", "residual")
SWEEP_LOSSES = ("mse", "cosine", "both")
TRANSLATORS = ("ridge", "principal-first")
PRECISIONS = ("float32", "bfloat16", "float16", "auto")
COMPILING = ("auto", "never", "always")
ALSO_FIT = ("none", "default", "auto")
LAMBDA_UNITS = ("one", "variance")
# Beyond these a typing error is likelier than a wish, and memory would end first.
MOST = {
    "seed": 2**32 - 1, "folds": 1000, "views": 100_000, "clipart_views": 100_000,
    "control_draws": 10_000, "bootstrap_draws": 1_000_000, "workers": 4096, "shards": 100_000,
    "information_draws": 10_000, "kernel_size": 1_000_000, "redeals": 10_000,
    "plant_splits": 10_000,
}
NO_LESS = {  # than this, where it is given
    "seed": 0, "clipart_views": 0, "clipart_files": 0, "stamp_subjects": 1, "total_pictures": 1,
    "top_classes": 1, "redeals": 1, "plant_splits": 1, "plant_concepts": 1, "plant_pictures": 1,
}
COSTS = ("hours", "memory_gb", "gpu_gb", "disk_gb", "download_gb", "machine")


def _lambdas() -> list[float]:
    return [10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0, 10000.0, 30000.0]


@dataclass(frozen=True)
class Profile:
    """Everything that the numbers of a run depend on.

    Attributes
    ----------
    name : str
        File name in ``data/profiles`` without its ending.
    models : list of str
        Classifiers that are compared (names for ``load_classifier``).
    tower : str or None
        Classifier that builds the ConSE space; it is shown as a control and never ranked. None for
        every other joint space, which needs no tower.
    joint_space : str
        Name for ``load_joint_space``.
    other_spaces : list of str
        Joint spaces that the comparison of classifiers is repeated in; for ConSE, whose other
        towers are the classifiers themselves, none.
    pictures : str
        ``stamps`` (photo stamps and clip art) or what ``folders.source_pictures`` takes:
        ``imagenette``, ``imagenet:<folder>``, ``folder:<path>``, ``huggingface:<name>``.
    picture_split : str or None
        Part of that source, ``train`` or ``val`` for ImageNet and Imagenette.
    picture_mapping : str or None
        File that says what odd folders are called.
    total_pictures : int or None
        So many of that source, every class its share; None means all.
    also_fit : str
        Whether translators are also fitted on the offline book's drawings, beside a folder's
        pictures: ``none``; ``default``; or ``auto``, where the folder holds few pictures. Unless
        it is ``none``, a folder with few pictures is also dealt to fewer folds.
    top_classes : int
        How many of the tower's largest logits speak in the ConSE space.
    temperature : float or None
        Of the tower's softmax, which replaces `top_classes` if given.
    translator : str
        What is fitted: ``ridge``, the paper's, or ``principal-first``, which asks the null part
        only for what the principal part leaves (:mod:`sing_nb.checks.controls`).
    published_translators : str or None
        Folder of the translators that the paper's authors published, used instead of fitting.
    views, clipart_views : int
        Views of each photo stamp and of each drawing.
    stamp_subjects, clipart_files : int or None
        Keep only this many; None means all.
    folds : int
        Splits by subject for held-out scores.
    lambdas : list of float
        Ridge candidates.
    lambda_unit : str
        What they are multiples of: ``one``, or ``variance``, the mean variance of a feature of the
        classifier, which suits features of any size.
    control_draws : int
        Random subspaces that each null removal is compared with.
    bootstrap_draws : int
        Samples of each interval.
    seed : int
        Seed of views, folds, controls and intervals.
    sweep_model : str
        Classifier whose translators are compared in the translator study.
    sweep_architectures, sweep_losses : list of str
        Its grid; ``ridge``, in closed form, has only the loss ``mse``.
    sweep_folds : int
        How many folds are tested, each with translators of its own.
    sweep_views : int
        Views of each photo stamp that it uses; of a drawing, the first.
    sweep_hidden, sweep_epochs : int
        Hidden units of its networks, and passes over the pictures at most.
    information_draws : int
        Random subspaces that the unique information of each null space is compared with.
    kernel_size : int
        Features of the non-linear map that it is compared with, too.
    redeals : int
        How often the subjects are dealt anew to measure the translators' share of a score.
    plant_splits : int
        Splits of the subjects in halves on which planted concepts are looked for; as many others
        serve to choose thresholds.
    plant_concepts, plant_pictures : int
        Candidate concepts at most, and pictures of a half at most.
    renderer : str
        What draws an embedding: ``nearest`` (the nearest photo) or ``unclip/<repository>``.
    device : str
        ``auto`` (a GPU if there is one), ``cpu``, ``cuda``, ``cuda:1`` or ``mps``.
    precision : str
        ``float32``, or ``bfloat16`` or ``float16``, in which networks then run where it is safe
        (autocast); features and embeddings are kept in float32. ``auto`` is bfloat16 for
        classifiers whose features stay within 0.1 % of their length on a machine that computes in
        it, else float32; for joint spaces it is float32.
    workers, batch : int
        Processes that decode pictures, and pictures at a time. 0 workers: threads of this process,
        which on a processor run the network, too. Batch 0: as many as a quarter of the free memory
        takes, at most 256.
    compile : str
        Whether torch.compile compiles classifiers in float32: ``auto`` (where it pays off for so
        many pictures), ``never`` or ``always`` (:class:`sing_nb.pictures.features.Running`).
    shards : int
        Parts that features and ridge statistics are computed in, each a job of its own; the
        results are those of one.
    expected : dict
        What a run costs: ``hours``, ``memory_gb``, ``gpu_gb``, ``disk_gb``, ``download_gb`` and
        ``machine``, the machine that the hours are for.
    about : str
        One sentence for people.
    """

    name: str
    models: list[str]
    tower: str | None = None
    joint_space: str = "conse"
    other_spaces: list[str] = field(default_factory=list)
    pictures: str = "stamps"
    picture_split: str | None = None
    picture_mapping: str | None = None
    total_pictures: int | None = None
    translator: str = "ridge"
    published_translators: str | None = None
    top_classes: int = 75
    temperature: float | None = None
    views: int = 12
    clipart_views: int = 2
    stamp_subjects: int | None = None
    clipart_files: int | None = None
    folds: int = 5
    lambdas: list[float] = field(default_factory=_lambdas)
    control_draws: int = 5
    bootstrap_draws: int = 1000
    seed: int = 0
    # Left out of repr, and so of what results are stored under: the pictures, which are part of
    # it, say which it was; and of the next ones, that only the sweep needs them.
    also_fit: str = field(default="none", repr=False)
    lambda_unit: str = field(default="one", repr=False)  # Study._hash adds it
    sweep_model: str = field(default="lite0", repr=False)
    sweep_architectures: list[str] = field(
        default_factory=lambda: list(SWEEP_ARCHITECTURES), repr=False
    )
    sweep_losses: list[str] = field(default_factory=lambda: list(SWEEP_LOSSES), repr=False)
    sweep_folds: int = field(default=2, repr=False)
    sweep_views: int = field(default=6, repr=False)
    sweep_hidden: int = field(default=512, repr=False)
    sweep_epochs: int = field(default=60, repr=False)
    information_draws: int = field(default=3, repr=False)
    kernel_size: int = field(default=1000, repr=False)
    redeals: int = field(default=4, repr=False)
    plant_splits: int = field(default=3, repr=False)
    plant_concepts: int = field(default=30, repr=False)
    plant_pictures: int = field(default=1600, repr=False)
    renderer: str = field(default="nearest", repr=False)
    device: str = field(default="auto", repr=False)
    precision: str = field(default="float32", repr=False)
    workers: int = field(default=0, repr=False)
    batch: int = field(default=64, repr=False)
    compile: str = field(default="auto", repr=False)
    shards: int = field(default=1, repr=False)
    expected: dict = field(default_factory=dict, repr=False)
    about: str = field(default="", repr=False)

    @property
    def sweep(self) -> list[tuple[str, str]]:
        """The translator study's grid: every architecture with every loss."""
        return [
            (architecture, loss) for architecture in self.sweep_architectures
            for loss in (["mse"] if architecture == "ridge" else self.sweep_losses)
        ]

    @property
    def everyone(self) -> list[str]:
        """All classifiers of the run, the tower last."""
        return [*dict.fromkeys([*self.models, *([self.tower] if self.tower else [])])]

    @property
    def pair(self) -> tuple[str, str]:
        """The first two classifiers, which the prose compares.

        Raises
        ------
        SingError
            If there is but one.
        """
        if len(self.models) < 2:
            raise SingError(
                f"The chapters on models and classes compare two classifiers; models has only "
                f"{self.models[0]}. Name one more."
            )
        return self.models[0], self.models[1]

    @property
    def spaces(self) -> list[str]:
        """Joint spaces that classifiers are compared in: names, or in ConSE its towers."""
        return self.everyone if self.tower else [self.joint_space, *self.other_spaces]


_TYPES = typing.get_type_hints(Profile)
_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxstring = 2, 100


def unknown(what: str, name: str, known: typing.Iterable[str], advice: str = "") -> SingError:
    """An error for an unknown name, with the nearest right one."""
    known = sorted(known)
    close = difflib.get_close_matches(str(name), known, n=1)
    if not close:
        small = {other.lower(): other for other in known}
        near = difflib.get_close_matches(str(name).lower(), small, n=1)
        close = [small[other] for other in near]
    hint = f"did you mean {close[0]!r}? " if close else ""
    return SingError(f"Unknown {what} {name!r}; {hint}Known: {', '.join(known)}.{advice}")


def profile_names() -> list[str]:
    """Names of the profiles in ``data/profiles``."""
    return sorted(path.stem for path in (data_dir() / "profiles").glob("*.yaml"))


def load_profile(name: str, overrides: Mapping[str, object] | None = None) -> Profile:
    """Read a profile and lay overrides over it.

    Parameters
    ----------
    name : str
        A file in ``data/profiles``, without ``.yaml``.
    overrides : mapping, optional
        Keys of :class:`Profile` with values of the right type.

    Returns
    -------
    Profile

    Raises
    ------
    SingError
        For an unknown profile or key, or a value of another type.
    """
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
    values = {"name": name}
    for where, source in ((str(path), content), ("the overrides", overrides or {})):
        for key, value in source.items():
            if key not in _TYPES or key == "name":
                known = set(_TYPES) - {"name"}
                raise unknown(f"profile key (in {where})", key, known)
            values[key] = cast(key, value, _TYPES[key], where)
    missing = [
        f.name for f in dataclasses.fields(Profile)
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        and f.name not in values
    ]
    if missing:
        raise SingError(f"{path} lacks {', '.join(missing)}; see data/profiles/offline.yaml.")
    profile = Profile(**values)
    _check(profile)
    return profile


class _Strict(yaml.SafeLoader):
    """YAML in which a key that stands twice is an error; of its own accord the last one counts."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"{key.value!r} stands there twice; leave one", key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def parse_yaml(text: str, where: str) -> object:
    """YAML as plain values: no code is run, and no key stands twice.

    Parameters
    ----------
    text : str
    where : str
        Where it came from, for the message.

    Raises
    ------
    SingError
        If it is no such YAML.
    """
    try:
        return yaml.load(text, Loader=_Strict)
    except yaml.YAMLError as error:
        said = ' '.join(str(error).split()).replace('"<unicode string>", ', '')
        raise SingError(f"{where} is not YAML: {said}") from error
    except RecursionError as error:
        raise SingError(f"{where} is nested too deeply to be read as YAML.") from error


def _check(profile: Profile) -> None:
    for key, most in MOST.items():
        if getattr(profile, key) > most:
            raise SingError(f"{key} can be {most:,} at most; got {getattr(profile, key):,}.")
    for key, least in NO_LESS.items():
        if getattr(profile, key) is not None and getattr(profile, key) < least:
            raise SingError(f"{key} must be at least {least}; got {getattr(profile, key)}.")
    if not profile.lambdas or not all(0 < lam < math.inf for lam in profile.lambdas):
        raise SingError(
            f"lambdas are finite numbers above 0, at least one; got {_SHORT.repr(profile.lambdas)}."
        )
    if profile.temperature is not None and not 0 < profile.temperature < math.inf:
        raise SingError(f"temperature must be a number above 0; got {profile.temperature}.")
    names = [*profile.models, *profile.other_spaces, profile.joint_space]
    if not all(name.strip() for name in names) or profile.tower == "":
        raise SingError("A name of models, tower, joint_space or other_spaces is empty.")
    if len(set(profile.models)) < len(profile.models):
        twice = sorted({name for name in profile.models if profile.models.count(name) > 1})
        raise SingError(f"models names {', '.join(twice)} more than once; leave one.")
    at_least_one = (
        "views", "control_draws", "bootstrap_draws", "sweep_folds", "sweep_views", "sweep_hidden",
        "sweep_epochs", "shards", "information_draws", "kernel_size",
    )
    for key in at_least_one:
        if getattr(profile, key) < 1:
            raise SingError(f"{key} must be at least 1; got {getattr(profile, key)}.")
    if profile.folds < 2:
        raise SingError(f"folds must be at least 2; got {profile.folds}.")
    if profile.sweep_folds > profile.folds:
        raise SingError(
            f"sweep_folds counts the folds that are tested, at most {profile.folds} of them; got "
            f"{profile.sweep_folds}."
        )
    for what, names, known in (
        ("architecture", profile.sweep_architectures, SWEEP_ARCHITECTURES),
        ("loss", profile.sweep_losses, SWEEP_LOSSES),
    ):
        for name in names:
            if name not in known:
                raise unknown(what, name, known)
    if "ridge" not in profile.sweep_architectures or len(set(profile.sweep_architectures)) < 2:
        raise SingError(
            f"sweep_architectures needs ridge, the baseline, and one more to compare with it; got "
            f"{profile.sweep_architectures}."
        )
    if not {"mse", "cosine"} <= set(profile.sweep_losses):
        raise SingError(
            f"sweep_losses needs mse and cosine, which are compared; got {profile.sweep_losses}."
        )
    if profile.translator not in TRANSLATORS:
        raise unknown("translator", profile.translator, TRANSLATORS)
    if profile.translator != "ridge" and profile.published_translators:
        raise SingError(
            f"published_translators takes the place of what is fitted, so that translator "
            f"{profile.translator} would change nothing. Leave one of the two out."
        )
    if profile.precision not in PRECISIONS:
        raise unknown("precision", profile.precision, PRECISIONS)
    if profile.lambda_unit not in LAMBDA_UNITS:
        raise unknown("unit of lambdas", profile.lambda_unit, LAMBDA_UNITS)
    if profile.also_fit not in ALSO_FIT:
        raise unknown("choice of also_fit", profile.also_fit, ALSO_FIT)
    if profile.compile not in COMPILING:
        raise unknown("choice of compile", profile.compile, COMPILING)
    for key, cost in profile.expected.items():
        if key not in COSTS:
            raise unknown("key of expected", key, COSTS)
        cast(key, cost, str if key == "machine" else float, "expected")
    if profile.workers < 0:
        raise SingError(f"workers counts processes, from 0; got {profile.workers}.")
    if profile.batch < 0:
        raise SingError(
            f"batch counts pictures at a time, or is 0 for what memory takes; got {profile.batch}."
        )
    if (profile.joint_space == "conse") != (profile.tower is not None):
        raise SingError(
            f"The joint space conse is built from a tower, and no other space is; got the joint "
            f"space {profile.joint_space} and the tower {profile.tower}. Name a tower for conse, "
            f"or none (tower: null)."
        )
    if profile.other_spaces and profile.tower:
        raise SingError(
            "other_spaces is for joint spaces without a tower; in ConSE the classifiers take turns "
            "as towers. Leave it empty."
        )
    if not profile.models:
        raise SingError("models is empty; name at least one classifier.")
    if profile.tower in profile.models:
        raise SingError(
            f"The tower {profile.tower} is also among the models, and a classifier is never ranked "
            f"in the space that it builds. Choose another tower or take it off the models."
        )


def cast(key: str, value: object, kind: object, where: str) -> object:
    """A value as the annotated type, or an error: no guessing, only int to float.

    Parameters
    ----------
    key : str
        Name for the message.
    value : object
        What came.
    kind : type
        ``int``, ``float``, ``str``, ``bool``, ``list[...]``, ``dict``, or a union with None.
    where : str
        Where it came from, for the message.

    Returns
    -------
    object
        The value, an int turned into a float where a float is wanted.
    """
    origin, options = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in options:
            return None
        return cast(key, value, next(o for o in options if o is not type(None)), where)
    if origin is list and isinstance(value, list):
        return [cast(key, item, options[0], where) for item in value]
    plain = origin or kind
    if plain is float and isinstance(value, int) and not isinstance(value, bool):
        with contextlib.suppress(OverflowError):  # of a whole number beyond 1e308
            return float(value)
    right = isinstance(value, plain) and not (plain in (int, float) and isinstance(value, bool))
    if not right:
        wanted = getattr(kind, "__name__", None) if origin is None else str(kind)
        raise SingError(
            # Shortened: a few lines of YAML can stand for billions of items.
            f"{key} in {where} must be {wanted or kind}; got {_SHORT.repr(value)} "
            f"({type(value).__name__})."
        )
    return value


def build_dir(profile: str) -> Path:
    """Where a profile's results lie: ``$SING_BUILD`` or ``_build`` of the checkout."""
    return (named_folder("SING_BUILD") or data_dir().parent / "_build") / profile
