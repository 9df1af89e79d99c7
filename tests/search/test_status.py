"""What `medtune status` shows in windows of all widths."""

import io
import re

import pytest
import rich.console

from search.folder import SearchFolder
from search.status import NARROW, status_lines
from tests.search.conftest import write_digits
from tests.search.test_report import make


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> SearchFolder:
    folder = tmp_path_factory.mktemp("status")
    write_digits(folder / "secret-folder", 150)
    return make(folder, 12, name="found")


def shown(found: SearchFolder, width: int) -> list[str]:
    console = rich.console.Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    for line in status_lines(found, width):
        console.print(line)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


@pytest.mark.parametrize("width", [60, 80, NARROW - 1, NARROW, 200])
def test_every_parameter_is_there_whole(found: SearchFolder, width: int) -> None:
    lines = shown(found, width)
    assert all(len(line) <= width for line in lines) and "…" not in "".join(lines)
    words = " ".join(lines).split()
    for trial in found.study().trials:
        for name in trial.point.keys() - {"backbone", "trained_blocks"}:
            assert name in words, f"{name} is cut at {width} columns"


def test_a_narrow_window_has_what_a_trial_is_under_it(found: SearchFolder) -> None:
    lines = shown(found, 60)
    starts = [index for index, line in enumerate(lines) if re.match(r" {4}\d | {3}\d\d ", line)]
    trials = found.study().trials
    assert len(starts) == len(trials) == 12
    assert all(later - sooner <= 9 for sooner, later in zip(starts, starts[1:], strict=False))
    for start, trial in zip(starts, trials, strict=True):
        assert str(trial.state) in lines[start]
        assert lines[start + 1].startswith(f"       {trial.point['backbone']}, ")
