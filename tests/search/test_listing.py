"""All searches under a storage, whatever their state."""

import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from search.console import Console
from search.ending import Ending, leave
from search.folder import DATA, SETTINGS
from search.listing import Listed, lines, listing, readable, usage
from search.study import JOURNAL, only_writer
from spaces.mistakes import Mistake
from tests.search.conftest import succeed, write_digits
from tests.search.test_report import make

ALMIGHTY = "-dac_override,-dac_read_search"  # without the rights to write and to read whatever permissions say


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
    assert not any(one.ending for one in found.values())


def test_a_search_that_is_run_is_running(storage: Path) -> None:
    with only_writer(storage / "empty"):
        assert {one.name: one.state for one in listing(storage)}["empty"] == "running"


def test_the_command(storage: Path) -> None:
    rows = json.loads(succeed("ls", storage, "--json"))
    assert {row["name"] for row in rows} == {"first", "empty", "broken"}
    shown = succeed("ls", storage)
    assert "12 of 30" in shown and "skin, pilot" in shown and "unfinished" in shown and "none yet" in shown


def told_without_rights(storage: Path) -> subprocess.CompletedProcess[str]:
    """What `medtune ls` tells a person who may not enter what permissions forbid; tests may run as root, who may."""
    unable = ["setpriv", f"--bounding-set={ALMIGHTY}", "--"] if os.geteuid() == 0 else []
    command = [*unable, sys.executable, "-m", "search.cli", "ls", str(storage), "--json"]
    return subprocess.run(command, capture_output=True, text=True, timeout=280)


@pytest.fixture
def forbidding(storage: Path, tmp_path: Path) -> Iterator[Path]:
    """A storage with a search that may be read, a folder that may not be entered, a search whose lock and one whose
    sub-folder may not be read."""
    runs = tmp_path / "runs"
    for name in ("open", "locked", "within"):
        shutil.copytree(storage / "first", runs / name)
    forbidden = [runs / "private", runs / "locked" / "study.lock", runs / "within" / "secret"]
    for path in forbidden[::2]:
        path.mkdir()
    (runs / "within" / "secret" / "file").touch()
    forbidden[1].touch()
    modes = dict(zip(forbidden, (0o000, 0o000, 0o444), strict=True))
    for path, mode in modes.items():
        path.chmod(mode)
    yield runs
    for path in modes:
        path.chmod(0o700)


def test_what_may_not_be_read_keeps_nothing_else_from_being_listed(forbidding: Path) -> None:
    done = told_without_rights(forbidding)
    assert done.returncode == 0, done.stderr
    rows = [(row["state"], row["trouble"], row["trials"]) for row in json.loads(done.stdout)]
    ask = "Permission denied; ask its owner for the right to read it"
    assert sorted(rows) == [
        ("can't be read", f"{forbidding}/locked/study.lock: {ask}", 0),
        ("can't be read", f"{forbidding}/private/search.yaml: {ask}", 0),
        ("unfinished", "", 12),
        ("unfinished", "", 12),
    ]


def test_settings_without_data_are_listed(storage: Path, tmp_path: Path) -> None:
    shutil.copytree(storage / "first", tmp_path / "first")
    shutil.rmtree(tmp_path / "first" / DATA)
    (tmp_path / "never").mkdir()
    shutil.copy(storage / "first" / SETTINGS, tmp_path / "never")
    (tmp_path / "file").touch()
    (tmp_path / "something else").mkdir()
    found = listing(tmp_path)
    assert [one.state for one in found] == ["can't be read"] * 2
    troubles = sorted(one.trouble for one in found)
    assert troubles[0].startswith(f"{tmp_path}/never/{JOURNAL}: no such file")
    assert troubles[1].startswith("it has search.yaml, but no folder data: it was never started, or that was deleted")


def test_one_that_ended_early_is_sound_while_its_data_are_there(storage: Path, tmp_path: Path) -> None:
    shutil.copytree(storage / "empty", tmp_path / "empty")
    leave(tmp_path / "empty", {}, Ending.of("nothing was left in the space"))
    [one] = listing(tmp_path)
    assert (one.state, one.ending, one.trouble) == ("ended early", "nothing was left in the space", "")
    assert "empty: ended early: nothing was left in the space" in " ".join(printed([one], 160))
    shutil.rmtree(tmp_path / "empty" / DATA)
    [one] = listing(tmp_path)
    assert (one.state, one.ending) == ("can't be read", "")
    assert one.trouble.startswith("it has search.yaml, but no folder data")


def test_a_search_that_goes_while_it_is_looked_at(
    storage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("stays", "goes"):
        shutil.copytree(storage / "first", tmp_path / name)

    def usage_at_last(folder: Path) -> tuple[int, float]:
        if folder.name == "goes":
            shutil.rmtree(folder)
        return usage(folder)

    monkeypatch.setattr("search.listing.usage", usage_at_last)
    assert [one.state for one in listing(tmp_path)] == ["unfinished"]


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
    *shown, note = printed([long], 60)
    assert note.startswith("Intervals don't know"), "a sentence, which a terminal wraps"
    assert "".join(shown).count("n") > 64 and "…" not in "".join(shown) and all(len(line) <= 60 for line in shown)


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(Mistake, match="no such folder"):
        listing(tmp_path / "runs")
    assert listing(tmp_path) == []


def test_sizes_are_readable() -> None:
    assert [readable(n) for n in (0, 1023, 1536, 20 * 2**20, 3 * 2**40, 5000 * 2**40)] == [
        "0 B", "1023 B", "1.5 KiB", "20 MiB", "3.0 TiB", "5000 TiB",
    ]  # fmt: skip
