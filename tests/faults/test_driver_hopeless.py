"""Every trial fails, for one reason."""

from pathlib import Path

import pytest

from search.folder import SearchFolder
from search.scheduler import ALIKE
from tests.faults.searches import fixed_list, ran, written


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_no_more_trials_than_show_that_all_fail_alike(tmp_path: Path) -> None:
    """Of 30 trials that all fail for one reason no more are started than K and those under way then, and the reason is
    what the person reads last."""
    settings = fixed_list(tmp_path, 30, 2)
    settings["space"] |= {"warmup": 0.0, "head_lr": {"float": [1e19, 1e21], "log": True}}
    settings["try"] = [{**point, "head_lr": (1 + n) * 1e19} for n, point in enumerate(settings["try"])]
    done = ran("search", written(tmp_path, settings))
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    trials = SearchFolder(tmp_path / "runs" / "fixed").study().trials
    print(f"{len(trials)} of 30 trials were started: {trials[0].cause}")
    assert ALIKE <= len(trials) <= ALIKE + 2  # the others were under way on this machine's two processors
    assert all(t.state == "failed" and "the loss was" in t.cause for t in trials)
    assert "failed for one reason, so no more were started: " + trials[0].cause in done.stdout
