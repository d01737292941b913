"""How long the explorers take to answer: median and worst of several changes of each control.

Usage: python tests/answers.py [profile] [times]

Counts from the change of a control in the kernel to the moment when all that the browser is sent
is made. The first answer after a new classifier or pair of classifiers is listed on its own.
"""

from __future__ import annotations

import datetime
import io
import statistics
import sys
import time
from collections.abc import Callable, Iterable

from PIL import Image

import sing_nb
from sing_nb import widgets


def measure(name: str, act: Callable[[object], object], values: Iterable[object]) -> None:
    """Do something with every value, and print how long it took."""
    took = []
    for value in values:
        start = time.perf_counter()
        act(value)
        took.append(1000 * (time.perf_counter() - start))
    worst = f"worst {max(took):5.0f}" if len(took) > 1 else "once"
    print(f"{name:<44} {statistics.median(took):5.0f} ms, {worst}", flush=True)


def picture(seed: int) -> tuple[dict[str, object]]:
    """A PNG as the upload button hands it over."""
    file = io.BytesIO()
    Image.effect_mandelbrot((320, 240), (-2, -1, 1, 1), 20 + seed).convert("RGB").save(file, "PNG")
    content = file.getvalue()
    return ({"name": f"own-{seed}.png", "type": "image/png", "size": len(content),
             "content": memoryview(content), "last_modified": datetime.datetime.now()},)


def setter(box: object, control: str) -> Callable[[object], None]:
    """Change one control as a reader would."""
    return lambda value: setattr(getattr(box, control), "value", value)


def main(profile: str = "offline", times: str = "15") -> None:
    """Ask every explorer."""
    study, n = sing_nb.Study(profile, progress=False), int(times)
    start = time.perf_counter()
    one = widgets.NullSpaceExplorer(study)
    print(f"study and first explorer: {time.perf_counter() - start:.1f} s")
    pictures = [name for _, name in one.photo.options[:: max(1, len(one.photo.options) // n)]][1:]
    measure("photo", setter(one, "photo"), pictures)
    measure("step", setter(one, "step"), [0.1 * i for i in range(n)])
    measure("direction", setter(one, "direction"), ["random", "control", "prompt", "remove"] * 4)
    measure("prompt, new words", setter(one, "prompt"), [f"a red lighthouse {i}" for i in range(n)])
    measure("AS towards, new words", setter(one, "towards"), [f"a blue door {i}" for i in range(n)])
    one.mode.value = "target"
    measure("target angle", setter(one, "target"), range(1, n))
    measure("own picture", setter(one, "upload"), [picture(i) for i in range(n)])
    models = [name for _, name in one.model.options]
    measure("another classifier, first time", setter(one, "model"), models[1:2])
    measure("another classifier, again", setter(one, "model"), models * (n // len(models)))
    start = time.perf_counter()
    two = widgets.ConceptExplorer(study)
    print(f"concept explorer: {time.perf_counter() - start:.1f} s")
    measure("class", setter(two, "label"), list(two.label.options)[1 : n + 1])
    words = [f"lamp {i}, cup {i}, sea {i}" for i in range(n)]
    measure("three new words", setter(two, "words"), words)
    measure("the same words again", setter(two, "words"), words)
    if len(models) > 1:
        start = time.perf_counter()
        three = widgets.ModelComparer(study)
        print(f"model comparer: {time.perf_counter() - start:.1f} s")
        measure("measure", setter(three, "measure"), ["image_score", "ratio"] * (n // 2))
        kinds = ["random control", "null space removed"]
        measure("removal", setter(three, "kind"), kinds * (n // 2))


if __name__ == "__main__":
    main(*sys.argv[1:])
