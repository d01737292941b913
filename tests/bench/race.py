"""A race: ours first, then a peer that has to find the same in more time."""

from __future__ import annotations

import pytest
import torch

FOUND, SAID = {}, []


@pytest.fixture
def race(benchmark):
    """Times one runner of a race; checks the peer's result and the ratio of the times."""

    def run(title, who, function, *, at_least, same):
        results = []
        benchmark.pedantic(lambda: results.append(function()), rounds=3 if who == "sing" else 1)
        result, seconds = torch.as_tensor(results[-1]).double(), benchmark.stats["min"]
        if who == "sing":
            FOUND[title] = result, seconds
            return
        ours, least = FOUND[title]
        torch.testing.assert_close(ours, result, rtol=same, atol=same, equal_nan=True)
        ratio = seconds / least
        SAID.append(f"{title}: {ratio:.1f} times as fast as {who} (at least {at_least:g})")
        assert ratio >= at_least

    return run


def pytest_terminal_summary(terminalreporter):
    """The ratios, after the tables of times."""
    for line in SAID:
        terminalreporter.write_line(line)
