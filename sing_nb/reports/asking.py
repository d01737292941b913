"""Does a head ignore a concept, keep it, or can it not be told? For any words.

A picture's value of a concept is the cosine of its own joint embedding to the prompt; how much of
it a head has lost is measured by :mod:`sing_nb.reports.readout`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from torch.nn.functional import normalize

from ..checks.blind_heads import FOLDS, READABLE
from ..checks.concepts import chosen_pictures, concept_values
from ..errors import SingError
from ..models.prompts import complete_prompt
from ..study.study import Study, stored
from . import readout
from .readout import LEAST_SUBJECTS, THRESHOLD, THRESHOLD_HIGH, VERDICTS, decided, measured
from .words import percent, short

__all__ = ["RULE", "VERDICTS", "ask", "asked_pictures", "factors", "prompts_of"]

LONGEST = 500  # characters; joint spaces read some 70 words and pass over the rest
FAR = 0.05  # a prompt is far if so many words of the vocabulary are nearer to every picture
RULE = (
    f"A head ignores what surely loses more than {percent(THRESHOLD)}, and perhaps "
    f"{percent(THRESHOLD_HIGH)} or more; it keeps what surely loses less than "
    f"{percent(THRESHOLD_HIGH)}, and perhaps less than {percent(THRESHOLD)} (95 % intervals).")


def ask(study: Study, model: str, prompts: Sequence[str]) -> pd.DataFrame:
    """Whether a head ignores concepts, keeps them, or neither can be told."""
    asked = prompts_of(prompts)
    found = _answers(study, model, list(asked.values()))
    verdict = decided(found)
    why = [_why(row, said, words) for row, said, words in zip(
        found.to_dict("records"), verdict, asked, strict=True)]
    if model == study.config.tower:
        why = [f"{text} The joint space is built on this very head, so that it must agree with it."
               for text in why]
    numbers = ["hidden", "hidden_low", "hidden_high", "hidden_control", "hidden_control_high",
               "full", "full_low", "full_high"]
    return pd.DataFrame(
        {"prompt": list(asked), "verdict": verdict, **found[numbers],
         **found[["pictures", "subjects"]], "why": why, "model": model,
         "title": study.title(model)})


def prompts_of(prompts: Sequence[str]) -> dict[str, str]:
    """What was typed and the prompt that it means, each prompt once."""
    prompts = [prompts] if isinstance(prompts, str) else list(prompts)
    if not prompts:
        raise SingError("Nothing is asked; give a few words, such as “snow” or “a hand”.")
    found: dict[str, str] = {}
    for words in prompts:
        words = " ".join("".join(c if c.isprintable() else " " for c in words).split())
        if len(words) > LONGEST:
            raise SingError(f"A question has at most {LONGEST} characters; “{short(words)}” has "
                            f"{len(words):,}. Ask for one thing at a time.")
        whole = complete_prompt(words)
        if whole not in found.values():
            found[words] = whole
    return found


def asked_pictures(study: Study) -> pd.DataFrame:
    """The pictures of questions, and what folds balance: labels of several subjects (stratum)."""
    table = chosen_pictures(study)
    common = table.groupby("label")["subject"].transform("nunique") >= FOLDS
    return table.assign(stratum=table["label"].where(common, ""))


@stored(keys=["plant_pictures"])
def _answers(study: Study, model: str, prompts: list[str]) -> pd.DataFrame:
    table = asked_pictures(study)
    rows = table["row"].to_numpy(copy=True)
    z = study.embeddings[rows].double().numpy()
    values = z @ study.space.encode_text(prompts).double().numpy().T
    found = measured(
        study.features(model)[rows].double().numpy(), values, table["subject"],
        study.spaces(model).principal_basis.numpy(), table["stratum"],
        controls=min(readout.CONTROLS, study.config.control_draws), progress=study.progress,
        draws=study.config.bootstrap_draws, seed=study.config.seed)
    return found.assign(far=_far(study, z, values))


def _far(study: Study, z: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Share of the vocabulary that is nearer than a prompt even to the picture nearest to it."""
    words = normalize(study.text(study.vocabulary).double(), dim=-1).numpy()
    nearest = np.ones(values.shape[1])
    for one, own in zip(z, values):
        known = np.sort(words @ one)
        nearest = np.minimum(nearest, 1 - np.searchsorted(known, own, side="left") / len(known))
    return nearest


def factors(study: Study, model: str) -> pd.DataFrame:
    """Which known factors of the pictures a head ignores, by the rule of :func:`ask`."""
    found = _factors(study, model)
    return found.assign(verdict=decided(found), model=model, title=study.title(model))


@stored(keys=["plant_pictures"])
def _factors(study: Study, model: str) -> pd.DataFrame:
    table = concept_values(study)
    rows = table["row"].to_numpy(copy=True)
    found = measured(
        study.features(model)[rows].double().numpy(), table.iloc[:, 3:].to_numpy(),
        table["subject"], study.spaces(model).principal_basis.numpy(), table["stratum"],
        controls=min(2, study.config.control_draws), draws=study.config.bootstrap_draws,
        seed=study.config.seed)
    return found.assign(prompt=table.columns[3:])


def _why(row: dict, verdict: str, words: str) -> str:
    """Why an answer is what it is, for people."""
    hidden, low, high = (row[f"hidden{end}"] for end in ("", "_low", "_high"))
    control = row["hidden_control"]
    told = f"Of what the features tell of it (R² {row['full']:.2f}), "
    narrow = f" Random views as narrow as this head lose on average {percent(control)}"
    if verdict == VERDICTS[2]:
        if row["subjects"] < LEAST_SUBJECTS:
            text = (f"{row['subjects']} subjects are too few for an interval; from "
                    f"{LEAST_SUBJECTS} on it can be said. Give more pictures.")
        elif np.isnan(row["full"]):
            text = "All pictures are alike in it; give pictures that show it and others."
        elif not row["full_low"] >= READABLE:
            text = (f"The features themselves hardly tell it (R² {row['full']:.2f}, perhaps only "
                    f"{row['full_low']:.2f}; {READABLE} is needed), and what is not there cannot "
                    f"be lost.")
        else:
            text = (f"Of what the features tell of it, between {percent(max(low, 0))} and "
                    f"{percent(high)} is lost to the head: " + (
                        "a part, neither next to nothing nor much." if low > THRESHOLD else
                        "this may be next to nothing or a good part; more pictures would tell."))
    elif verdict == VERDICTS[0]:
        text = (f"{told}{percent(hidden)} does not reach the logits ({percent(low)} to "
                f"{percent(high)}).")
        if control >= low:
            text += f"{narrow}, too: it reads few directions, and this concept is not singled out."
        elif not np.isnan(control):
            text += f" A random view of the same size would lose {percent(max(control, 0))}."
    else:
        text = f"{told}at most {max(1, int(np.ceil(100 * high)))} % is lost to the head" + (
            ", nothing that could be measured." if hidden < 0.005
            else f", measured {percent(hidden)}.")
        if control > THRESHOLD_HIGH:
            text += f"{narrow}: this head reads what it needs for it."
    if row["far"] > FAR:
        text += (f" No picture comes near the words “{short(words)}”: to each of them at least "
                 f"{percent(row['far'])} of the vocabulary is nearer, so that this is about a "
                 f"shade of meaning, not about the thing.")
    return text
