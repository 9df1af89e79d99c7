"""MLflow's mirror: exactly one run a trial and every epoch once, however it is cut short; nothing private in it."""

import itertools
import json
import logging
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import FloatDistribution

from search import ui
from search.cli import main
from search.disclosure import public_cause, public_command, public_label, public_value
from search.ending import Ending, leave, take_away
from search.folder import DATA
from search.mirror import SEARCH_TAG, TRIAL_TAG, Mirror, connect
from search.mlflow_store import artifacts
from search.record import Epoch, State
from search.study import Study, only_writer, open_storage
from search.tracking import (
    being_driven,
    follow,
    local_uri,
    only_mirror,
    reachable,
    search_facts,
    sync_once,
    tracking_uri,
)
from spaces.mistakes import Mistake

CANARY = "Canary_Jane_Doe_19610203"
SPACE = {"head_lr": FloatDistribution(1e-4, 1e-1, log=True)}


@pytest.fixture(scope="module")
def new_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An empty SQLite store of MLflow, which takes seconds to make, to be copied."""
    folder = tmp_path_factory.mktemp("store")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(folder))  # MLflow leaves a lock there
        patch.setenv("TMPDIR", str(folder))
        connect(local_uri(folder)).search_experiments()
        yield folder / "mlflow.db"


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory, new_store: Path) -> Path:
    """A folder of searches."""
    folder = tmp_path_factory.mktemp("storage")
    shutil.copy(new_store, folder)
    return folder


@dataclass
class Search:
    folder: Path
    study: Study

    def trial(self, epochs: int = 0, state: State | None = None, cause: str = "", value: float = 0.8) -> int:
        lr = 1e-3 * (1 + len(self.study.trials))
        point = {"backbone": "vit_tiny.random", "trained_blocks": 0, "head_lr": lr}
        number = self.study.add(
            point, {"head_lr": lr}, SPACE, seed=len(self.study.trials), job="job-00000", why="tpe"
        ).number
        self.epochs(number, 1, epochs)
        if state is not None:
            self.study.end(number, state, cause, value if state is State.COMPLETE else None)
        return number

    def epochs(self, number: int, first: int, last: int) -> None:
        for epoch in range(first, last + 1):
            accuracy, when = 0.5 + epoch / 100, 1.6e9 + 1000 * number + epoch
            told = Epoch(
                epoch, accuracy, None, 1 / epoch, {"macro_f1": accuracy - 0.1, "kappa": float("nan")}, 0.5, when
            )
            self.study.epoch(number, told)


def make_search(storage: Path, name: str, **more: Any) -> Search:
    folder = storage / name
    folder.mkdir()
    settings = {
        "name": name,
        "dataset": {"reader": "folder", "root": f"/data/{CANARY}", "options": {"column": f"{CANARY}.csv"}},
        "backbones": ["vit_tiny.random"],
        "weights": {"vit_tiny.random": f"/data/{CANARY}/weights.pth"},
        "storage": str(storage),
        "budget": {"trials": 3},
        **more,
    }
    (folder / "search.yaml").write_text(json.dumps(settings))
    identity = {
        "id": f"{name:0<32}",
        "data": "d" * 64,
        "split": "5" * 64,
        "metric": "accuracy",
        "direction": "maximize",
        "versions": {"torch": "2.15.0+cpu"},
        "counts": {"train": {"no tumor": 7, f"/data/{CANARY}": 5}},
        "settings": {"dataset.root": f"/data/{CANARY}"},
    }
    return Search(folder, Study.create(open_storage(folder, None), name, "maximize", identity))


def mixed(storage: Path, name: str) -> Search:
    """A search with a trial in every state."""
    search = make_search(storage, name)
    search.trial(3, State.COMPLETE, value=0.53)
    search.trial(1, State.PRUNED, "after epoch 1 its score was 0.5100, the best 1 of 2 had 0.53 or better")
    search.trial(0, State.FAILED, f"FileNotFoundError: no such file: '/data/{CANARY}/{CANARY} 2.png'")
    search.trial(0, State.INFEASIBLE, f"out of memory at {CANARY}")
    search.trial(2, State.CANCELLED, f"by hand: see ../{CANARY.lower()}/notes.txt")
    search.trial(2)
    return search


def mirror_of(search: Search) -> Mirror:
    return Mirror(local_uri(search.folder.parent), search_facts(search.folder))


def runs_of(search: Search, uri: str | None = None) -> list[Any]:
    client = connect(uri or local_uri(search.folder.parent))
    experiment = client.get_experiment_by_name("medtune")
    where = f"tags.`{SEARCH_TAG}` = '{search_facts(search.folder).identifier}'"
    return sorted(client.search_runs([experiment.experiment_id], where), key=lambda r: r.data.tags.get(TRIAL_TAG, ""))


def snapshot(search: Search, uri: str | None = None) -> list[Any]:
    """All that MLflow has of a search, but for its own identifiers."""
    client = connect(uri or local_uri(search.folder.parent))
    found = []
    for run in runs_of(search, uri):
        history = {
            key: [(m.step, m.timestamp, m.value) for m in client.get_metric_history(run.info.run_id, key)]
            for key in sorted(run.data.metrics)
        }
        tags = {k: v for k, v in run.data.tags.items() if k != "mlflow.parentRunId"}
        found.append((run.info.run_name, run.info.status, run.info.end_time, tags, dict(run.data.params), history))
    return found


def check_like_record(search: Search, uri: str | None = None) -> None:
    """One run a trial, each epoch once, in order, with its own time."""
    parent, *children = snapshot(search, uri)
    trials = Study.read(open_storage(search.folder, None), search.study.name).trials
    assert [child[0] for child in children] == [f"trial {t.number:04d}" for t in trials]
    for trial, (_, _, _, _, params, history) in zip(trials, children, strict=True):
        expected = [(e.epoch, round(e.time * 1000), e.value) for _, e in sorted(trial.epochs.items())]
        assert history.get("accuracy", []) == expected
        assert params == {k: str(v) for k, v in trial.point.items()}
    assert TRIAL_TAG not in parent[3]


def test_the_note_says_why_a_search_ended_early_and_what_started_it(storage: Path) -> None:
    search = make_search(storage, "early")
    search.study.redefine({**search.study.identity, "command": "medtune search search.yaml --set budget.trials=3"})
    search.trial(2, State.COMPLETE)

    def page(driven: bool = False) -> str:
        mirror = Mirror(local_uri(storage), search_facts(search.folder), search.folder)
        mirror.update(search.study.trials, driven=driven)
        return str(snapshot(search)[0][3]["mlflow.note.content"])

    assert "Ended early" not in page()
    leave(search.folder, {}, Ending(f"all failed at /data/{CANARY}", "all failed for one reason"))
    ended = page()
    assert "Ended early: all failed for one reason." in ended and CANARY not in ended
    for command in ("resume early", "export early", "final best.yaml", "report early"):
        assert f"medtune {command}" in ended
    assert "Started by `medtune search search.yaml --set budget.trials=3`" in ended
    assert "Ended early" not in page(driven=True), "it goes on"
    take_away(search.folder)
    assert "Ended early" not in page()


def test_a_long_command_leaves_room_for_the_rest_and_is_sent_once(
    storage: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = make_search(storage, "long")
    command = "medtune search search.yaml --set " + "x" * 10_000
    search.study.redefine({**search.study.identity, "command": command})
    search.trial(2, State.COMPLETE)
    sync_once(search.folder)
    page = snapshot(search)[0][3]["mlflow.note.content"]
    for words in ("To look: `medtune status long`", "To make a final", "MEDTUNE_STORAGE", "Started by `medtune search"):
        assert words in page
    assert "xxx ...`, paths left out." in page and len(page) < 5000

    monkeypatch.setattr("search.mirror.note", lambda *_: "n" * 6000)  # as one with many finals
    sync_once(search.folder)
    arrived: list[dict[str, str]] = []
    send_tags = Mirror._send_tags

    def sent(mirror: Mirror, client: Any, run: Any, tags: dict[str, str]) -> None:
        before = dict(run.tags)
        send_tags(mirror, client, run, tags)
        arrived.append({key: value for key, value in run.tags.items() if before.get(key) != value})

    monkeypatch.setattr(Mirror, "_send_tags", sent)
    sync_once(search.folder)
    assert arrived and not any(arrived), "of a note that was cut off, nothing is sent again"


def test_what_is_the_same_for_all_trials_is_no_parameter(storage: Path) -> None:
    """Parallel coordinates have an axis for each parameter. One opened later comes to ended trials, too."""
    space = {"head_lr": {"float": [1e-4, 1e-1], "log": True}, "batch_size": 32, "level": 1}
    search = make_search(storage, "fixed", backbones=["mae_tiny"], weights="random", space=space)
    point = {"backbone": "mae_tiny", "trained_blocks": 0, "head_lr": 2e-3, "batch_size": 32, "level": 1}
    search.study.add(point, {"head_lr": 2e-3}, SPACE, seed=5, job="job-00000", why="tpe")
    search.study.end(0, State.COMPLETE, "", 0.7)
    sync_once(search.folder)
    parent, trial = snapshot(search)
    assert "head_lr" in trial[4] and not {"batch_size", "level", "seed"} & set(trial[4])
    assert "head_lr 0.002." in parent[3]["mlflow.note.content"] and "batch_size" not in parent[3]["mlflow.note.content"]
    assert trial[3]["medtune.seed"] == "5" and trial[3]["medtune.backbone"] == "mae_tiny"
    assert parent[3]["medtune.fixed.batch_size"] == "32" and parent[3]["medtune.fixed.level"] == "1"
    settings = json.loads((search.folder / "search.yaml").read_text())
    settings["space"]["level"] = {"choice": [1, 2]}
    (search.folder / "search.yaml").write_text(json.dumps(settings))
    sync_once(search.folder)
    assert snapshot(search)[1][4]["level"] == "1"


def test_late_sync_tells_every_trial_and_nothing_twice(storage: Path) -> None:
    search = mixed(storage, "late")
    sync_once(search.folder)
    check_like_record(search)
    parent, *children = snapshot(search)
    assert [c[1] for c in children] == ["FINISHED", "KILLED", "FAILED", "FAILED", "KILLED", "KILLED"]
    states = ["complete", "pruned", "failed", "infeasible", "cancelled", "unfinished"]
    assert [c[3]["medtune.state"] for c in children] == states
    complete = search.study.trials[0]
    assert children[0][2] == round((complete.ended or 0) * 1000)
    assert children[0][5]["value"] == [(3, round((complete.ended or 0) * 1000), 0.53)]
    assert children[0][5]["seconds"][0][2] == pytest.approx(1.5)
    assert children[0][5]["macro_f1"][2][2] == pytest.approx(0.43)
    assert "kappa" not in children[0][5]  # never defined
    assert children[1][3]["medtune.cause"].startswith("after epoch 1 its score was 0.5100, the best 1 of 2")
    assert parent[1] == "KILLED"  # a trial is unfinished, and no driver runs it
    assert [(step, value) for step, _, value in parent[5]["best_value"]] == [(s, 0.53) for s in range(1, 6)]
    tags = parent[3]
    assert tags["medtune.data_digest"] == "d" * 64
    assert tags["medtune.version.torch"] == "2.15.0+cpu"
    assert tags["medtune.trials.complete"] == "1"
    assert tags["medtune.images.train"] == "no tumor: 7, withheld: 5"
    assert "5 of 3 trials ended (1 unfinished, 1 complete" in tags["mlflow.note.content"]
    assert "medtune resume late" in tags["mlflow.note.content"]
    assert "export MEDTUNE_STORAGE=FOLDER" in tags["mlflow.note.content"], "or a name isn't found from elsewhere"
    assert "trial 0, accuracy 0.5300" in tags["mlflow.note.content"]
    (dataset,) = runs_of(search)[0].inputs.dataset_inputs
    assert dataset.dataset.digest == "d" * 36

    before = snapshot(search)
    sync_once(search.folder)  # a new process would do the same
    mirror = mirror_of(search)
    mirror.update(search.study.trials, driven=False)
    mirror.update(search.study.trials, driven=False)
    assert snapshot(search) == before


def test_children_belong_to_their_parent_and_no_tag_comes_from_the_machine(storage: Path) -> None:
    search = make_search(storage, "own-tags")
    search.trial(1, State.COMPLETE)
    sync_once(search.folder)
    parent, child = runs_of(search)
    assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
    allowed = {"mlflow.parentRunId", "mlflow.note.content", "mlflow.runName"}
    for run in (parent, child):
        assert {k for k in run.data.tags if not k.startswith("medtune.")} <= allowed
        assert run.info.user_id in (None, "", "unknown")


def test_nothing_private_is_in_the_store(storage: Path) -> None:
    search = mixed(storage, "private")
    sync_once(search.folder)
    stored = b"".join(file.read_bytes() for file in storage.glob("mlflow.db*"))
    assert b"trial 0003" in stored  # the bytes can be searched
    assert CANARY.lower().encode() not in stored.lower()
    for word in (b"jane", b"notes.txt", b"weights.pth"):
        assert word not in stored.lower()
    causes = [run.data.tags.get("medtune.cause") for run in runs_of(search)]
    assert causes[3:6] == ["FileNotFoundError", "out of memory at ...", "withheld; see medtune status"]


def test_steps_while_the_search_runs(storage: Path) -> None:
    search = make_search(storage, "live")
    mirror = mirror_of(search)
    mirror.update(search.study.trials)
    assert [c[1] for c in snapshot(search)] == ["RUNNING"]
    first = search.trial(2)
    mirror.update(search.study.trials)
    second = search.trial(1)
    search.epochs(first, 3, 3)
    mirror.update(search.study.trials)
    check_like_record(search)
    assert [c[1] for c in snapshot(search)] == ["RUNNING"] * 3
    search.study.end(second, State.PRUNED, "too low")
    mirror_of(search).update(search.study.trials, driven=False)  # the driver was killed; a new mirror sees it
    assert [c[1] for c in snapshot(search)] == ["KILLED", "KILLED", "KILLED"]
    mirror.forget()
    search.epochs(first, 4, 4)  # resumed
    mirror.update(search.study.trials)
    assert [c[1] for c in snapshot(search)] == ["RUNNING", "RUNNING", "KILLED"]
    search.study.end(first, State.COMPLETE, "", 0.54)
    mirror.update(search.study.trials, driven=False)
    check_like_record(search)
    assert [c[1] for c in snapshot(search)] == ["FINISHED", "FINISHED", "KILLED"]


class Cut(Exception):
    """The connection broke."""


class Unreliable:
    """MLflow's client; call number `at` breaks before it is carried out, or after. Notes the metrics that arrive."""

    def __init__(self, client: Any, at: int, carried_out: bool, arrived: list[tuple[str, str, int]]) -> None:
        self.client, self.at, self.carried_out, self.arrived, self.calls = client, at, carried_out, arrived, 0

    def __getattr__(self, name: str) -> Any:
        call = getattr(self.client, name)

        def maybe(*args: Any, **options: Any) -> Any:
            self.calls += 1
            broken = self.calls == self.at
            if broken and not self.carried_out:
                raise Cut
            answer = call(*args, **options)
            if name == "log_batch":
                self.arrived += [(args[0], m.key, m.step) for m in options.get("metrics", [])]
            if broken:
                raise Cut
            return answer

        return maybe


@pytest.mark.parametrize("carried_out", [False, True])
def test_a_cut_at_any_call_loses_and_doubles_nothing(storage: Path, carried_out: bool) -> None:
    def cut(at: int) -> tuple[bool, Search]:
        search = make_search(storage, f"cut-{at}-{carried_out}")
        search.trial(3, State.COMPLETE)
        search.trial(2, State.FAILED, "diverged")
        mirror = mirror_of(search)
        arrived: list[tuple[str, str, int]] = []
        client = Unreliable(connect(mirror.uri), at, carried_out, arrived)
        mirror._client = client  # type: ignore[assignment]
        was_cut = False
        try:
            mirror.update(search.study.trials, driven=False)
        except Cut:
            was_cut = True
        if at % 2:  # the process died, too
            mirror = mirror_of(search)
            mirror._client = Unreliable(connect(mirror.uri), 0, False, arrived)  # type: ignore[assignment]
        mirror.update(search.study.trials, driven=False)
        assert len(arrived) == len(set(arrived)) > 10  # not every store of MLflow drops a repeated metric
        return was_cut, search

    was_cut, undisturbed = cut(0)
    assert not was_cut

    def comparable(search: Search) -> list[Any]:
        keep = ("medtune.state", "medtune.cause", "medtune.number")
        return [
            (
                name,
                status,
                {k: tags.get(k) for k in keep},
                params,
                {k: [(h[0], h[2]) for h in v] for k, v in history.items()},
            )
            for name, status, _, tags, params, history in snapshot(search)[1:]
        ]

    for at in itertools.count(1):
        was_cut, search = cut(at)
        check_like_record(search)
        assert comparable(search) == comparable(undisturbed), f"cut at call {at}"
        assert snapshot(search)[0][1] == "FINISHED"
        assert len(runs_of(search)[0].inputs.dataset_inputs) == 1
        if not was_cut:  # an update has fewer calls than that
            assert at > 10
            break


def test_a_doubled_run_is_taken_away_and_a_deleted_one_made_again(storage: Path) -> None:
    search = make_search(storage, "double")
    search.trial(2, State.COMPLETE)
    mirror = mirror_of(search)
    mirror.update(search.study.trials, driven=False)
    client, (_, child) = connect(mirror.uri), runs_of(search)
    client.create_run(child.info.experiment_id, tags={k: child.data.tags[k] for k in (SEARCH_TAG, TRIAL_TAG)})
    assert len(runs_of(search)) == 3
    mirror_of(search).update(search.study.trials, driven=False)
    assert [r.info.run_id for r in runs_of(search)][1:] == [child.info.run_id]
    client.delete_run(child.info.run_id)
    mirror_of(search).update(search.study.trials, driven=False)
    check_like_record(search)


@contextmanager
def following(search: Search, poll: float = 0.1) -> Iterator[list[bool]]:
    outcome: list[bool] = []
    thread = threading.Thread(
        target=lambda: outcome.append(follow(search.folder, poll=poll, longest_wait=2)), daemon=True
    )
    thread.start()
    yield outcome
    thread.join(40)
    assert not thread.is_alive()


def test_follow_ends_when_the_driver_has_gone_and_all_is_there(storage: Path) -> None:
    search = make_search(storage, "followed")
    with following(search) as outcome_of_nobody:
        pass
    assert outcome_of_nobody == [True]  # no driver: one look is enough
    with ExitStack() as stack, only_writer(search.folder):
        outcome = stack.enter_context(following(search))
        number = search.trial(1)
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and len(runs_of(search)) < 2:
            time.sleep(0.1)
        assert len(runs_of(search)) == 2  # seen while it runs
        with pytest.raises(Mistake, match="another process"):
            sync_once(search.folder)
        search.epochs(number, 2, 3)
        search.study.end(number, State.COMPLETE, "", 0.9)
        assert outcome == []
    assert outcome == [True]
    check_like_record(search)
    assert snapshot(search)[0][1] == "FINISHED"


def test_the_drivers_lock_is_only_looked_at(storage: Path) -> None:
    search = make_search(storage, "locks")
    assert not being_driven(search.folder)
    assert not (search.folder / "study.lock").exists()
    with only_writer(search.folder):
        assert being_driven(search.folder)
    assert not being_driven(search.folder)
    with (
        only_mirror(search.folder, wait=False),
        pytest.raises(Mistake, match="nothing to do"),
        only_mirror(search.folder, wait=False),
    ):
        pass
    with only_mirror(search.folder, wait=False):
        pass


def test_a_server_that_comes_late_gets_everything(
    storage: Path, new_store: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copy(new_store, tmp_path)
    port = ui.free_port()
    uri = f"http://{ui.HOST}:{port}"
    search = make_search(storage, "outage", mlflow=uri)
    search.trial(2, State.COMPLETE)
    command = ui.server_command(local_uri(tmp_path), port, tmp_path / "artifacts")
    environment = os.environ | ui.SERVER_SETTINGS | {"TMPDIR": str(tmp_path)}
    with caplog.at_level(logging.WARNING, "search.tracking"), following(search) as outcome:
        time.sleep(4)  # several attempts fail
        search.trial(3, State.PRUNED, "too low")
        assert outcome == []
        with (tmp_path / "server.log").open("wb") as log:
            server = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            ui._wait_for(server, port)
            deadline = time.monotonic() + 40
            while not outcome and time.monotonic() < deadline:
                time.sleep(0.1)
            assert outcome == [True]
            check_like_record(search, uri)
            assert search_facts(search.folder).identifier in runs_of(search, uri)[0].data.tags[SEARCH_TAG]
        finally:
            server.terminate()
            server.wait(20)
    told = [r.getMessage() for r in caplog.records if r.name == "search.tracking"]
    assert len([t for t in told if t.startswith("can't mirror to http://127.0.0.1")]) == 1
    assert len([t for t in told if t.startswith("up to date again")]) == 1
    assert ui.free_port(port) == port  # nothing of the server is left


def test_a_server_that_never_comes_is_given_up(storage: Path) -> None:
    search = make_search(storage, "away", mlflow=f"http://127.0.0.1:{ui.free_port()}")
    search.trial(1, State.COMPLETE)
    started = time.monotonic()
    assert follow(search.folder, poll=0.1, patience=0.5) is False
    assert time.monotonic() - started < 60
    with pytest.raises(Mistake, match="mlflow: nothing can be sent"):
        sync_once(search.folder)


def test_two_searches_at_once_in_a_store_whose_making_was_killed(tmp_path: Path) -> None:
    searches = [make_search(tmp_path, name) for name in ("one", "two")]
    for search in searches:
        for _ in range(4):
            search.trial(5, State.COMPLETE)

    def start(search: Search) -> subprocess.Popen[bytes]:
        code = "import sys; from pathlib import Path; from search.tracking import follow; follow(Path(sys.argv[1]))"
        return subprocess.Popen(
            [sys.executable, "-c", code, str(search.folder)],
            env=os.environ | {"TMPDIR": str(tmp_path)},
            cwd=Path(__file__).parents[2],
            stderr=subprocess.PIPE,
        )

    with start(searches[0]) as killed:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and not list(tmp_path.glob(".mlflow.db.*/mlflow.db")):
            time.sleep(0.02)
        killed.kill()
    assert list(tmp_path.glob(".mlflow.db.*/mlflow.db")) and not (tmp_path / "mlflow.db").exists()
    processes = [start(search) for search in searches]
    for process in processes:
        _, errors = process.communicate(timeout=100)
        assert process.returncode == 0, errors.decode()
        assert b"can't mirror" not in errors
    for search in searches:
        check_like_record(search)
    client = connect(local_uri(tmp_path))
    assert sorted(e.name for e in client.search_experiments()) == ["Default", "medtune"]


def test_an_address_where_nobody_answers_is_known_at_once() -> None:
    closed = f"http://user:secret@127.0.0.1:{ui.free_port()}"
    with pytest.raises(Mistake) as refused:
        reachable(closed)
    message = str(refused.value)
    assert "127.0.0.1" in message and "mlflow: off" in message and "medtune sync" in message
    assert "secret" not in message
    with socket.socket() as silent:  # takes connections and says nothing
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        started = time.monotonic()
        with pytest.raises(Mistake, match="no answer|timed out"):
            reachable(f"http://127.0.0.1:{silent.getsockname()[1]}", 1)
        assert time.monotonic() - started < 10  # a second, and what a busy machine adds
    with pytest.raises(Mistake, match="folder"):
        reachable("file:///tmp/mlruns")
    reachable("sqlite:////tmp/mlflow.db")


@pytest.mark.parametrize("scheme", ["postgresql", "postgresql+psycopg", "mysql+pymysql", "mssql"])
def test_a_database_alone_is_refused(scheme: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow would put files into the working folder, under a name that holds the password."""
    monkeypatch.chdir(tmp_path)
    uri = f"{scheme}://user:secr@et@127.0.0.1:1/mlflow"
    search = make_search(tmp_path, "database", mlflow=uri)
    for command in (sync_once, follow, ui.serve):
        with pytest.raises(Mistake) as refused:
            command(search.folder)
        [said] = refused.value.sentences
        assert said.startswith(f'mlflow: "{scheme}://127.0.0.1:1/mlflow" is a database') and "secr" not in said
        assert "--backend-store-uri" in said and "--artifacts-destination" in said
    with pytest.raises(Mistake, match="is a database"):
        reachable(uri)
    with pytest.raises(ValueError, match="no SQLite store"):
        artifacts(uri)
    assert [path.name for path in tmp_path.iterdir()] == ["database"]


def test_pages_of_another_service_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ui.serve(make_search(tmp_path, "service", mlflow="databricks://profile").folder)
    assert capsys.readouterr().out == "databricks://profile has the search: open it in a browser.\n"


def test_mlflow_off_is_said(storage: Path) -> None:
    search = make_search(storage, "off", mlflow="off")
    for command in (sync_once, follow, ui.serve):
        with pytest.raises(Mistake, match='mlflow is off for the search "off"'):
            command(search.folder)
    assert tracking_uri(search.folder, "local") == f"sqlite:///{storage}/mlflow.db"


def test_looking_needs_something_to_look_at(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(Mistake, match="medtune sync"):
        ui.serve(make_search(tmp_path, "empty").folder)
    with socket.socket() as taken, pytest.raises(Mistake, match="taken"):
        taken.bind((ui.HOST, 0))
        taken.listen()
        ui.free_port(taken.getsockname()[1])


def test_sync_says_what_it_did_and_nothing_else(tmp_path: Path) -> None:
    """With a store that has yet to be made, of which MLflow would tell every step."""
    search = make_search(tmp_path, "quiet")
    (search.folder / DATA).mkdir()  # by which a search's folder is known
    search.trial(2, State.PRUNED, "too low")  # a complete one would have predictions to be drawn
    done = subprocess.run(
        [sys.executable, "-m", "search.cli", "sync", str(search.folder)], capture_output=True, text=True, timeout=280
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        f"{local_uri(tmp_path)} is up to date with quiet, 1 trial. Look: medtune ui {search.folder}"
    ]


def test_following_in_vain_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    search = make_search(tmp_path, "vain", mlflow=f"http://127.0.0.1:{ui.free_port()}")
    (search.folder / DATA).mkdir()  # by which a search's folder is known
    search.trial(1, State.COMPLETE)
    monkeypatch.setattr("search.tracking.follow", partial(follow, poll=0.1, patience=0.2))
    with pytest.raises(SystemExit) as ended:
        main(["sync", str(search.folder), "--follow"])
    assert ended.value.code == 1
    told = capsys.readouterr().err
    assert told.endswith(f"medtune: MLflow isn't up to date with vain; try again by: medtune sync {search.folder}.\n")


@pytest.mark.slow
def test_pages_are_opened_without_chatter(tmp_path: Path) -> None:
    """The address is all that is printed, also after pages were looked at."""
    search = make_search(tmp_path, "quiet")
    (search.folder / DATA).mkdir()  # by which a search's folder is known
    sync_once(search.folder)
    with subprocess.Popen(
        [sys.executable, "-m", "search.cli", "ui", str(search.folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as server:
        try:
            assert server.stdout is not None
            first = server.stdout.readline()
            told = re.match(r"MLflow: (http://\S+) \(Ctrl-C ends it\)", first)
            assert told, first + server.stdout.readline()
            for page in ("", "/health", "/ajax-api/2.0/mlflow/experiments/get-by-name?experiment_name=medtune"):
                with urllib.request.urlopen(told[1] + page, timeout=60) as answer:
                    assert answer.status == 200
        finally:
            server.send_signal(signal.SIGINT)
            rest = server.communicate(timeout=60)[0]
    assert rest == ""


@pytest.mark.parametrize(
    ("cause", "public"),
    [
        ("", ""),
        ("the loss was nan at step 17", "the loss was nan at step 17"),
        ("its job ended without telling a result", "its job ended without telling a result"),
        ("KeyError: 'P0123'", "KeyError"),
        ("PIL.UnidentifiedImageError: cannot identify image file 'a.png'", "UnidentifiedImageError"),
        ("can't read jane doe 1.png", "withheld; see medtune status"),
        ("can't read C:\\scans\\jane", "withheld; see medtune status"),
        ("can't read patient 19610203 of ward 7", "can't read patient ..."),
        ("can't read Jane", "can't read ..."),
        ('unknown label "jane"', "unknown label ..."),
    ],
)
def test_causes_that_go_out(cause: str, public: str) -> None:
    assert public_cause(cause) == public


@given(before=st.text(), after=st.text(), sign=st.sampled_from(["/", "\\", "~"]))
def test_no_path_goes_out(before: str, after: str, sign: str) -> None:
    text = f"{before}{sign}{after}"
    for public in (public_cause(text), public_value(text), public_label(text)):
        assert "/" not in public and "\\" not in public and "~" not in public


@given(st.text(alphabet="abcXYZ09._-/ :"))
def test_no_file_name_goes_out(text: str) -> None:
    assert public_cause(f"can't read {text}.png") == "withheld; see medtune status"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (["budget.trials=100", "seed=3"], "--set budget.trials=100 --set seed=3"),
        (["budget={trials: 9, plateau: null}"], "--set 'budget={trials: 9, plateau: null}'"),
        (
            ["space.head_lr@mae={float: [1.0e-5, 0.1], log: true}"],
            "--set 'space.head_lr@mae={float: [1e-05, 0.1], log: true}'",
        ),
        (["backbones=[mae_base, timm/convnext_tiny.in12k]"], "--set 'backbones=[mae_base, timm/convnext_tiny.in12k]'"),
        (["space.feature@timm/x=a"], "--set space.feature@timm/x=a"),
        (["weights=random", "mlflow=off"], "--set weights=random --set mlflow=off"),
        (["weights.mae_base=/data/jane/mae.pth"], "--set weights.mae_base=withheld"),
        (["dataset.root=jane", "mlflow=http://me:word@host"], "--set dataset.root=withheld --set mlflow=withheld"),
        (
            ["dataset={reader: csv, root: jane, options: {jane: doe}}"],
            "--set 'dataset={reader: csv, root: withheld, options: withheld}'",
        ),
        (["dataset.options.jane=1"], "--set dataset.options=withheld"),
        (["dataset.options.labels={Jane_Doe: 1}"], "--set dataset.options=withheld"),
        (["dataset.options={labels: {Jane_Doe: 1}}"], "--set dataset.options=withheld"),
        (["dataset.options.labels.Jane_Doe={a: true}"], "--set dataset.options=withheld"),
        (["dataset={options: {labels: {Jane_Doe: null}}}"], "--set 'dataset={options: withheld}'"),
        (["dataset={options.labels: {Jane_Doe: 1}}"], "--set 'dataset={options: withheld}'"),
        (["tags=[jane]", "classes_averaged=[jane]"], "--set tags=withheld --set classes_averaged=withheld"),
        (["space.policy=/data/jane"], "--set space.policy=withheld"),
        (["space={jane doe: 1}"], "--set 'space={withheld: 1}'"),
    ],
)
def test_the_command_without_what_may_not_leave(changes: list[str], told: str) -> None:
    assert public_command(Path("/data/jane/search.yaml"), changes, None) == f"medtune search search.yaml {told}"


def test_of_files_and_addresses_no_more_than_needed() -> None:
    assert public_command(Path("jane doe/my-search.yaml"), [], "ray://jane:10001") == (
        "medtune search my-search.yaml --address ADDRESS"
    )
    assert public_command(Path("jane doe.yaml"), [], None) == "medtune search search.yaml"
