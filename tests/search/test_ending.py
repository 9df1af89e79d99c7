"""A search that ended before all trials that were ordered says why wherever it is shown, until it goes on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from search.ending import DRIVER, Ending, early_ending, leave, take_away
from search.folder import SearchFolder
from search.listing import lines, listing
from search.note import note
from search.record import State, Trial, best
from search.report import report
from search.status import status_json, status_lines
from search.tracking import search_facts
from spaces.config import BudgetConfig
from tests.search.conftest import status, succeed, write_digits
from tests.search.finals import search_of
from tests.search.test_report import Page
from tests.search.test_scheduler import CONFIG, driver

WHY = "none of the last 3 trials was better than what was there before (budget.plateau: 3), so no more were started"
COSTS = {"wall_seconds": 1.0, "record_seconds": 0.1, "tracking_seconds": 0.0}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> SearchFolder:
    """Two complete trials of six that were ordered."""
    home = tmp_path_factory.mktemp("ending")
    write_digits(home / "images", 150)
    return search_of(home, budget={"trials": 6, "epochs": 2})


def trial(state: State) -> Trial:
    return Trial(0, {}, 0, "", 0.0, state=state)


def test_what_is_left_is_read_until_it_is_taken_away(tmp_path: Path) -> None:
    ended, running = trial(State.COMPLETE), trial(State.RUNNING)
    assert early_ending(tmp_path, [ended], 2) is None, "killed, or of an earlier version"
    leave(tmp_path, COSTS, Ending.of(WHY))
    assert early_ending(tmp_path, [ended], 2) == Ending(WHY, WHY) == early_ending(tmp_path, [ended, running], 2)
    assert early_ending(tmp_path, [ended, ended], 2) is None, "all were run"
    assert json.loads((tmp_path / DRIVER).read_text())["wall_seconds"] == 1.0
    take_away(tmp_path)
    take_away(tmp_path)
    assert early_ending(tmp_path, [ended], 2) is None
    leave(tmp_path, COSTS, None)
    assert early_ending(tmp_path, [ended], 2) is None, "a person stopped it"
    for text in ("", "[]", '{"wall_seconds": 1.0}', '{"ended_early": {"text": "a"}}'):
        (tmp_path / DRIVER).write_text(text)
        assert early_ending(tmp_path, [ended], 2) is None


def test_it_stands_wherever_the_search_is_shown(found: SearchFolder, tmp_path: Path) -> None:
    storage, winner = found.path.parent, best(found.study().trials, "maximize")
    private = f"{WHY}: see {found.path}/a.png"

    def shown() -> dict[str, str]:
        trials = found.study().trials
        [listed] = listing(storage)
        early = early_ending(found.path, trials, 6)
        return {
            "state": listed.state,
            "ls": " ".join(line for line in lines([listed], 140) if isinstance(line, str)),
            "status": " ".join(map(str, status_lines(found, None))),
            "json": str(json.loads(status_json(found))["ended_early"]),
            "html": Page(report([found], tmp_path / "r.html").read_text(encoding="utf-8")).text,
            "md": report([found], tmp_path / "r.md").read_text(encoding="utf-8"),
            "note": note(search_facts(found.path), {"complete": 2}, winner, False, 0.1, ending=early),
        }

    before = shown()
    assert before["state"] == "unfinished" and before["json"] == "None"
    assert not [where for where, text in before.items() if "nded early" in text]
    leave(found.path, COSTS, Ending(private, WHY))
    try:
        after = shown()
    finally:
        take_away(found.path)
    assert after["state"] == "ended early" and after["json"] == private
    assert f"made: ended early: {private}" in after["ls"] and f"Ended early: {private}" in after["status"]
    assert f"Ended early: {WHY}." in after["html"] and f"| ended early | {WHY} |" in after["md"]
    assert f"Ended early: {WHY}." in after["note"]
    assert not [where for where in ("html", "md", "note") if str(found.path) in after[where]]
    assert not [where for where, text in shown().items() if "nded early" in text]


def test_what_has_ended_early_can_be_exported(found: SearchFolder) -> None:
    """It may go on, or not."""
    facts, winner = search_facts(found.path), best(found.study().trials, "maximize")
    commands = ("medtune export made", "medtune final best-", "medtune report made")
    early = note(facts, {"complete": 2}, winner, False, 0.1, ending=Ending.of(WHY))
    assert "medtune resume made" in early and all(command in early for command in commands)
    cut = note(facts, {"complete": 2, "running": 1}, winner, False, 0.1, ending=Ending.of(WHY))
    assert "medtune resume made" in cut and not [command for command in commands if command in cut]
    without = note(facts, {"failed": 5}, None, False, 0.1, ending=Ending.of(WHY))
    assert "medtune report made" in without and "export" not in without.replace("export MEDTUNE_STORAGE", "")


def test_why_all_failed_leaves_without_what_may_not(tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"budget": BudgetConfig(trials=20, epochs=8)})
    one = driver(tmp_path, config)
    for _ in range(5):
        job = one.next_job()
        assert job is not None
        number = job["trials"][0]["number"]
        end = {"state": "failed", "cause": "RuntimeError: can't read /data/jane/scan.png", "value": None}
        one.told([{"trial": number, "end": end}], [number])
    assert one.next_job() is None and one.ending is not None
    assert "/data/jane/scan.png" in one.ending.text
    assert one.ending.public.endswith("so no more were started: RuntimeError")


def test_spent_hours_are_a_reason_and_a_person_is_none(tmp_path: Path) -> None:
    budget = BudgetConfig(trials=4, epochs=8, device_hours=1)
    one = driver(tmp_path, CONFIG.model_copy(update={"budget": budget}))
    assert one.next_job() is not None and one.ending is None
    one.stopping.set()
    assert one.next_job() is None and one.ending is None
    one.spent = 4000.0
    assert one.ending == Ending.of("1.11 device-hours of 1 are spent (raise budget.device_hours)")


def test_a_real_search_says_why_and_goes_on(settings: Path, tmp_path: Path) -> None:
    """On the command line, with what is told when a search goes on."""
    folder = tmp_path / "runs" / "digits"
    heads = ["--set", "space={batch_size: 32, trained_blocks: 0, head: linear}", "--set", "mlflow=off"]
    output = succeed("search", settings, *heads, "--set", "budget={trials: 40, epochs: 1, plateau: 1}")
    done = len(SearchFolder(folder).study().trials)
    told = status(folder)["ended_early"]
    assert "budget.plateau: 1" in told and told in output and done < 40
    assert f"Ended early: {told}" in succeed("status", folder)
    assert json.loads(succeed("ls", folder.parent, "--json"))[0]["state"] == "ended early"
    command = SearchFolder(folder).study().identity["command"]
    assert command.startswith(
        "medtune search search.yaml --set 'space={batch_size: 32, trained_blocks: 0, head: linear}'"
    )

    output = succeed("extend", folder, "--set", "budget.plateau=null", "--set", f"budget.trials={done + 1}")
    assert f"Search digits goes on: {done} of {done + 1} trials in its record" in output
    assert f"log {folder / 'log.txt'}" in output and "Weights of dinov2_tiny, mae_tiny are RANDOM" in output
    assert status(folder)["ended_early"] is None
    assert json.loads(succeed("ls", folder.parent, "--json"))[0]["state"] == "finished"
    assert SearchFolder(folder).study().identity["command"] == command
