"""All searches under a storage, whatever their state."""

import json
from pathlib import Path

import pytest

from search.console import Console
from search.listing import listing, readable, table
from search.study import JOURNAL, only_writer
from spaces.mistakes import Mistake
from tests.search.conftest import succeed, write_digits
from tests.search.test_report import make


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two searches with 12 and 0 trials, and one whose record is damaged."""
    folder = tmp_path_factory.mktemp("listing")
    write_digits(folder / "secret-folder", 150)
    make(folder, 12, name="first", tags=["skin", "pilot"])
    make(folder, 0, name="empty")
    broken = make(folder, 0, name="broken")
    (broken.path / JOURNAL).write_text("no journal\n")
    return folder / "runs"


def test_every_search_is_listed(storage: Path) -> None:
    found = {one.name: one for one in listing(storage)}
    assert set(found) == {"first", "empty", "broken"}
    first = found["first"]
    assert (first.trials, first.ordered, first.state, first.tags) == (12, 30, "unfinished", ("skin", "pilot"))
    assert first.best is not None and 0 < first.best < 1 and first.metric == "balanced_accuracy"
    assert first.size > 50_000 and first.owner and first.states and sum(first.states.values()) == 12
    assert found["empty"].best is None
    assert found["broken"].state == "can't be read" and found["broken"].trouble


def test_a_search_that_is_run_is_running(storage: Path) -> None:
    with only_writer(storage / "empty"):
        assert {one.name: one.state for one in listing(storage)}["empty"] == "running"


def test_the_command(storage: Path) -> None:
    rows = json.loads(succeed("ls", storage, "--json"))
    assert {row["name"] for row in rows} == {"first", "empty", "broken"}
    shown = succeed("ls", storage)
    assert "12 of 30" in shown and "skin, pilot" in shown and "unfinished" in shown and "none yet" in shown


def test_a_narrow_window_loses_nothing(storage: Path, tmp_path: Path) -> None:
    with (tmp_path / "out").open("w") as stream:
        Console(stream, width=80).print(table(listing(storage)))
    shown = "".join((tmp_path / "out").read_text().split())
    assert "unfinished" in shown and "12of30" in shown


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(Mistake, match="no such folder"):
        listing(tmp_path / "runs")
    assert listing(tmp_path) == []


def test_sizes_are_readable() -> None:
    assert [readable(n) for n in (0, 1023, 1536, 20 * 2**20, 3 * 2**40, 5000 * 2**40)] == [
        "0 B", "1023 B", "1.5 KiB", "20 MiB", "3.0 TiB", "5000 TiB",
    ]  # fmt: skip
