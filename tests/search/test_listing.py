"""All searches under a storage, whatever their state."""

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest

from search.console import Console
from search.listing import Listed, lines, listing, readable
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
    assert first.interval and first.interval[0] < first.best < first.interval[1]
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


def printed(found: list[Listed], width: int) -> list[str]:
    stream = io.StringIO()
    Console(stream, width=width).print(*lines(found, width))
    return stream.getvalue().splitlines()


@pytest.mark.parametrize(
    ("width", "hidden"),
    [
        (60, ("95% interval", "owner", "tags", "on disk", "last change")),
        (80, ("owner", "tags", "on disk", "last change")),
        (140, ()),
    ],
)
def test_windows(storage: Path, width: int, hidden: tuple[str, ...]) -> None:
    """Fewer columns where there is less room, each row one line and no word broken."""
    found = listing(storage)
    [(best, interval)] = [(one.best, one.interval) for one in found if one.best is not None and one.interval]
    shown = printed(found, width)
    table = shown[: 1 + len(found)]
    assert all(len(line) <= width for line in table) and "…" not in " ".join(shown)
    first = next(line for line in table if line.startswith("first "))
    assert "unfinished" in first and "12 of 30" in first and f"{best:.4f} " in first
    assert (f"[{interval[0]:.4f}, {interval[1]:.4f}]" in first) == ("95% interval" not in hidden)
    columns = ("search", "state", "trials", "best", "95% interval", "metric", "owner", "on disk", "last change", "tags")
    assert [name for name in columns if name in table[0]] == [name for name in columns if name not in hidden]
    assert "balanced_accuracy" in first
    assert " ".join(shown[1 + len(found) :]).startswith("broken: can't be read: "), "why, whatever the width"


def test_a_name_longer_than_the_window(storage: Path) -> None:
    [one] = [one for one in listing(storage) if one.name == "first"]
    long = replace(one, name="n" * 64)
    *shown, below = printed([long], 60)
    assert below.startswith("Intervals"), "a sentence, which the terminal breaks"
    assert "".join(shown).count("n") > 64 and "…" not in "".join(shown) and all(len(line) <= 60 for line in shown)


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(Mistake, match="no such folder"):
        listing(tmp_path / "runs")
    assert listing(tmp_path) == []


def test_sizes_are_readable() -> None:
    assert [readable(n) for n in (0, 1023, 1536, 20 * 2**20, 3 * 2**40, 5000 * 2**40)] == [
        "0 B", "1023 B", "1.5 KiB", "20 MiB", "3.0 TiB", "5000 TiB",
    ]  # fmt: skip
