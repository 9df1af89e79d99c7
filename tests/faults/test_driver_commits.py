"""The driver's process killed at each of its writes: of the record, the settings, an export, a report."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from search import folder as folders
from search.folder import SETTINGS, SearchFolder, write_settings
from search.identity import identity
from search.plan import plan
from search.record import State, Trial
from search.sampler import sampler_of
from search.scheduler import Driver
from search.study import JOURNAL, Study, open_storage, repair_journal
from spaces.config import SearchConfig
from spaces.library import assemble
from tests.faults.searches import epoch_of, fixed_list, recorded
from tests.search.conftest import medtune

CONFIG = SearchConfig.parse(
    {
        "name": "a",
        "dataset": {"reader": "folder", "root": "x"},
        "backbones": ["dinov2_tiny", "mae_tiny"],
        "weights": "random",
        "budget": {"trials": 5, "epochs": 4},
        "stopping": {"grace": 0.5},
    },
    "settings",
)


def killed_at(number: int, how: str, journal: Path | None, work: Callable[[], object]) -> bool:
    """Carries out some work in a process of its own, which is killed at its write number `number`: `before` anything
    of it is on the disk, after a part of it (`torn`), or right `after` it. Returns whether it came that far.

    Args:
        journal: whose lines are the writes; None: every flush to the disk and every renaming is one.
    """
    child = os.fork()
    if child == 0:
        count = 0
        sync, rename = os.fsync, os.rename

        def die() -> None:
            os.kill(os.getpid(), signal.SIGKILL)

        def synced(descriptor: int) -> None:
            nonlocal count
            count += 1
            if count == number and how != "after" and journal:
                lines = journal.read_bytes()
                last = lines.rstrip(b"\n").rfind(b"\n") + 1
                os.truncate(journal, last if how == "before" else (last + len(lines)) // 2)
                die()
            sync(descriptor)
            if count == number:
                die()

        def renamed(source: str, target: str) -> None:
            nonlocal count
            count += 1
            if count == number and how == "before":
                die()
            rename(source, target)
            if count == number:
                die()

        os.fsync, os.replace = synced, renamed  # type: ignore[assignment]
        if journal is None:  # of which Optuna's lock is one
            os.rename = renamed  # type: ignore[assignment]
        try:
            work()
        except BaseException as error:
            print(repr(error), file=sys.stderr)
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.WEXITSTATUS(status) == 0
    return False


def play(folder: Path) -> None:
    """A search from where its record is to its end, with results that follow from the trial alone."""
    repair_journal(folder / JOURNAL)
    study = Study.open(open_storage(folder, None), "a")
    sampler = sampler_of(CONFIG, assemble(CONFIG), "maximize", study.trials)

    def order(trials: list[Trial]) -> dict[str, list[int]]:
        return {"numbers": [t.number for t in trials]}

    driver = Driver(CONFIG, "maximize", study, sampler, [], order)
    while job := driver.next_job():
        for number in job["numbers"]:
            for epoch in range(1, 5):  # told from the first one again, as by a trial that goes on
                told = {"trial": number, "epoch": epoch_of(-number, epoch).plain()}
                if epoch == 4:
                    told["end"] = {"state": "complete", "cause": "", "value": epoch_of(-number, 4).value}
                if not driver.told([told], [number]):
                    break


def end_of(folder: Path) -> list[tuple[object, ...]]:
    trials = Study.read(open_storage(folder, None), "a").trials
    return [(t.number, t.point, t.seed, t.state, t.cause, t.value, sorted(t.epochs)) for t in trials]


@pytest.mark.parametrize("how", ["before", "torn", "after"])
def test_the_record(tmp_path: Path, how: str) -> None:
    """Killed before, in or after any one write of the record, a search that is resumed ends with the same trials,
    points, states and values as one that wasn't killed."""

    def new(name: str) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        Study.create(open_storage(folder, None), "a", "maximize", {})
        return folder

    calm = new("calm")
    assert not killed_at(0, how, calm / JOURNAL, lambda: play(calm))
    expected = end_of(calm)
    assert len(expected) == 5 and {State.COMPLETE, State.PRUNED} == {state for _, _, _, state, *_ in expected}
    write = 1
    while True:
        folder = new(str(write))
        if not killed_at(write, how, folder / JOURNAL, lambda folder=folder: play(folder)):  # type: ignore[misc]
            break
        assert not killed_at(0, how, folder / JOURNAL, lambda folder=folder: play(folder))  # type: ignore[misc]
        assert end_of(folder) == expected, f"killed {how} write {write}"
        write += 1
    print(f"{how}: {write - 1} writes of the record")
    assert write > 40


def test_the_settings_of_a_resume(tmp_path: Path) -> None:
    """Killed at any step of writing the settings that a resume changed, they are the old ones or the new ones."""
    found = recorded(tmp_path)
    old = (found.path / SETTINGS).read_text()
    config = found.config()
    more = config.model_copy(update={"budget": config.budget.model_copy(update={"trials": 99})})
    for step in range(1, 10):
        for how in ("before", "after"):
            (found.path / SETTINGS).write_text(old)
            if not killed_at(step, how, None, lambda: write_settings(found, more)):
                assert found.config() == more and step > 2
                return
            assert found.config() in (config, more)
            assert (found.path / SETTINGS).read_text() == old or found.config() == more
    raise AssertionError("it has no end")


KILLED = """
import os, signal, sys

at, steps = int(sys.argv[1]), 0

def counted(call):
    def step(*arguments, **options):
        global steps
        steps += 1
        if steps == at:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*arguments, **options)
    return step

os.fsync, os.replace, os.rename = counted(os.fsync), counted(os.replace), counted(os.rename)
from search.cli import main
code = main(sys.argv[2:])
print(steps)
sys.exit(code)
"""


@pytest.mark.slow
@pytest.mark.parametrize("command", ["export", "report"])
def test_old_or_new(tmp_path: Path, command: str) -> None:
    """Killed at any step of being written, an export and a report are the ones before or the new ones, to the byte (but
    for the minute that a report was made); and they can be written again."""
    found, file = recorded(tmp_path), tmp_path / ("best.yaml" if command == "export" else "report.html")
    arguments = [command, str(found.path), "-o", str(file)]
    assert medtune(*arguments).returncode == 0  # an export's places are noted once, so that only its own steps are left
    old, new = "as it was before\n", timeless(file)
    at, seen = 0, set()
    while True:
        at += 1
        file.write_text(old)
        done = subprocess.run(
            [sys.executable, "-c", KILLED, str(at), *arguments], capture_output=True, text=True, cwd=Path.cwd()
        )
        text = timeless(file)
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL, done.stderr
        seen.add(text == old)
        assert text in (old, new)
    print(f"{command}: killed at each of {at - 1} steps")
    assert at > 2 and seen == {True, False} and timeless(file) == new


def timeless(file: Path) -> str:
    """A file without the minute that it was made."""
    return re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC", "MADE", file.read_text())


def test_a_new_search(tmp_path: Path) -> None:
    """Killed at any step of its folder's being made, a search is there whole, or not at all and can be made again."""
    settings = fixed_list(tmp_path, 1, 2, images=100)
    planned = plan(SearchConfig.parse(settings, "settings"), tmp_path)
    known = identity(planned)
    for step in range(1, 100):
        own = replace(planned, config=planned.config.model_copy(update={"name": f"search-{step}"}))
        killed = killed_at(step, "before", None, lambda own=own: folders.create(own, known))  # type: ignore[misc]
        if not own.folder.exists():
            assert killed
            folders.create(own, known)
        found = SearchFolder(own.folder)
        assert found.study().identity["data"] and found.prepared() and found.config() == own.config
        if not killed:
            print(f"a new search: killed before each of {step - 1} steps")
            assert step > 3
            return
    raise AssertionError("it has no end")
