"""Every public name has a docstring whose example runs."""

from __future__ import annotations

import doctest

import pytest

import sing_nb


@pytest.mark.parametrize("name", sing_nb.__all__)
def test_the_example_in_the_docstring_runs(name, smoke, monkeypatch, tmp_path):
    smoke.features("lite0")  # so that an example's own study finds them
    monkeypatch.chdir(tmp_path)
    tests = doctest.DocTestFinder().find(getattr(sing_nb, name), name, extraglobs={"sing": sing_nb})
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    tried = sum(runner.run(test).attempted for test in tests)
    assert tried >= 1
    assert runner.failures == 0
