"""A search in MLflow: a parent run, and a child run for each trial, kept like the record.

Runs are found by tags that were given when they were created, and what MLflow already has is read back from it; nothing
has to be remembered elsewhere. Only what search/disclosure.py allows is sent.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from search.disclosure import NAME, SearchFacts, public_cause, public_label, public_value
from search.record import State, Trial

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

EXPERIMENT = "medtune"
EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}  # opens on training runs, not on traces
SEARCH_TAG, TRIAL_TAG, STATE_TAG = "medtune.search", "medtune.trial", "medtune.state"
PARENT_TAG, NOTE_TAG = "mlflow.parentRunId", "mlflow.note.content"
BATCH = 900  # metrics a call; MLflow takes 1000 metrics, parameters and tags together
MLFLOW_SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",  # a repeated create_run would make a second run; we look for it first
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
}


@dataclass
class _Mirrored:
    """A run as MLflow has it."""

    run_id: str
    status: str
    tags: dict[str, str]
    params: set[str]
    metrics: set[str]
    has_dataset: bool = False
    sent: set[tuple[str, int]] | None = None
    """(key, step) of its metrics; None until it was asked for."""

    @classmethod
    def of(cls, run: Run) -> _Mirrored:
        datasets = bool(run.inputs and run.inputs.dataset_inputs)
        return cls(
            run.info.run_id, run.info.status, dict(run.data.tags), set(run.data.params), set(run.data.metrics), datasets
        )


class Mirror:
    """One search in one MLflow. Of several processes only one may have it at a time (`only_mirror`)."""

    def __init__(self, tracking_uri: str, search: SearchFacts) -> None:
        self.uri, self.search = tracking_uri, search
        self._client: MlflowClient | None = None
        self._experiment = ""
        self._runs: dict[str, _Mirrored] | None = None
        """By trial's tag; the parent's is the empty one."""

    def update(self, trials: list[Trial], *, driven: bool = True) -> None:
        """Brings MLflow up to date; repeating it changes nothing.

        Args:
            trials: the record's.
            driven: whether a driver runs the search; without one, running trials are unfinished ones.

        Raises:
            Exception: whatever MLflow raises. The next call looks at what MLflow has before it sends anything.
        """
        try:
            self._update(trials, driven)
        except BaseException:
            self.forget()
            raise

    def forget(self) -> None:
        """Makes the next update ask MLflow what it has."""
        self._runs = None

    def _update(self, trials: list[Trial], driven: bool) -> None:
        if self._client is None:
            self._client = connect(self.uri)
        client = self._client
        if self._runs is None:
            self._experiment = _experiment(client, self.uri)
            self._runs = self._find(client)
        started = min((t.started for t in trials), default=time.time())
        parent = self._run(client, "", f"search {self.search.name}", started, {})
        for trial in trials:
            self._update_trial(client, parent, trial, driven)
        self._update_parent(client, parent, trials, driven)

    def _find(self, client: MlflowClient) -> dict[str, _Mirrored]:
        found: dict[str, list[Run]] = {}
        token: str | None = None
        while token != "":
            where = f"tags.`{SEARCH_TAG}` = '{self.search.identifier}'"
            page = client.search_runs([self._experiment], where, page_token=token)
            for run in page:
                found.setdefault(run.data.tags.get(TRIAL_TAG, ""), []).append(run)
            token = page.token or ""
        runs = {}
        for tag, same in found.items():
            # A second one exists where a server carried out a call after the client had given up on it.
            first, *doubles = sorted(
                same, key=lambda r: (not r.data.metrics, not r.data.params, r.info.start_time, r.info.run_id)
            )
            for run in doubles:
                client.delete_run(run.info.run_id)
            runs[tag] = _Mirrored.of(first)
        return runs

    def _run(self, client: MlflowClient, tag: str, name: str, started: float, tags: dict[str, str]) -> _Mirrored:
        """The run with this trial tag, created if there is none."""
        assert self._runs is not None
        if tag not in self._runs:
            tags = {SEARCH_TAG: self.search.identifier, **tags}
            run = client.create_run(self._experiment, start_time=_ms(started), tags=tags, run_name=name)
            self._runs[tag] = _Mirrored.of(run)
        return self._runs[tag]

    def _update_trial(self, client: MlflowClient, parent: _Mirrored, trial: Trial, driven: bool) -> None:
        tag = f"{self.search.identifier}:{trial.number}"
        tags = {TRIAL_TAG: tag, PARENT_TAG: parent.run_id}
        run = self._run(client, tag, f"trial {trial.number:04d}", trial.started, tags)
        params = {
            name: public_value(value)
            for name, value in (*trial.point.items(), ("seed", trial.seed))
            if NAME.fullmatch(name)
        }
        if not trial.state.terminal or run.tags.get(STATE_TAG) != str(trial.state):
            self._send_metrics(client, run, self._trial_metrics(trial), params)
        tags |= {
            "medtune.number": str(trial.number),
            "medtune.cause": public_cause(trial.cause),
            "medtune.why": public_cause(trial.why),
            **({"medtune.seconds": f"{trial.seconds:.1f}"} if trial.state.terminal else {}),
            **{f"medtune.{name}": params[name] for name in ("backbone", "trained_blocks") if name in params},
            # Last, and after the metrics: with an end in it, nothing more needs to be sent.
            STATE_TAG: "unfinished" if not trial.state.terminal and not driven else str(trial.state),
        }
        self._send_tags(client, run, tags)
        last = trial.ended or max((e.time for e in trial.epochs.values()), default=trial.started)
        self._send_status(client, run, _status(trial.state, driven), last)

    def _trial_metrics(self, trial: Trial) -> Iterator[tuple[str, float | None, float, int]]:
        """Key, value, Unix time in seconds, step."""
        for number in sorted(trial.epochs):
            epoch = trial.epochs[number]
            values = {
                self.search.metric: epoch.value,
                "train_loss": epoch.train_loss,
                "standard_error": epoch.standard_error,
                "epoch_seconds": epoch.seconds,
            }
            for key, value in {**epoch.metrics, **values}.items():
                if NAME.fullmatch(key):
                    yield key, value, epoch.time, number
        if trial.ended is not None:
            yield "value", trial.value, trial.ended, trial.done
            yield "seconds", trial.seconds, trial.ended, trial.done

    def _update_parent(self, client: MlflowClient, parent: _Mirrored, trials: list[Trial], driven: bool) -> None:
        search, ended = self.search, [t for t in trials if t.state.terminal]
        metrics, winner = [], None
        for step, trial in enumerate(sorted(ended, key=lambda t: (t.ended or 0.0, t.number)), start=1):
            winner = _better(winner, trial, search.direction)
            if winner is not None:
                metrics.append(("best_value", winner.value, trial.ended or 0.0, step))
        self._send_metrics(client, parent, metrics, {})
        counts = {str(state): sum(t.state is state for t in trials) for state in State}
        classes = {
            f"medtune.images.{part}": ", ".join(f"{public_label(str(label))}: {n}" for label, n in of_class.items())
            for part, of_class in search.counts.items()
        }
        tags = {
            "medtune.metric": f"{search.metric} ({search.direction})",
            "medtune.backbones": public_value(search.backbones),
            "medtune.data_digest": search.data_digest,
            "medtune.split_digest": search.split_digest,
            "medtune.best_trial": str(winner.number) if winner else "none yet",
            **classes,
            **{f"medtune.version.{package}": public_value(version) for package, version in search.versions.items()},
            **{f"medtune.setting.{name}": value for name, value in search.settings.items()},
            **{f"medtune.trials.{state}": str(count) for state, count in counts.items()},
            NOTE_TAG: self._note(counts, winner, driven),
        }
        self._send_tags(client, parent, tags)
        if search.data_digest and not parent.has_dataset:
            self._send_dataset(client, parent)
        if driven:
            status = "RUNNING"
        elif counts[State.RUNNING]:
            status = "KILLED"
        else:
            failed = counts[State.FAILED] + counts[State.INFEASIBLE]
            status = "FAILED" if ended and failed == len(ended) else "FINISHED"
        self._send_status(client, parent, status, max((t.ended or 0.0 for t in ended), default=time.time()))

    def _note(self, counts: dict[str, int], winner: Trial | None, driven: bool) -> str:
        """How the search goes, as Markdown."""
        name, ordered = self.search.name, self.search.settings.get("budget.trials", "?")
        ended = sum(n for state, n in counts.items() if state != State.RUNNING)
        called = {str(State.RUNNING): str(State.RUNNING) if driven else "unfinished"}
        states = ", ".join(f"{n} {called.get(state, state)}" for state, n in counts.items() if n) or "none yet"
        lines = [f"**{name}**: {ended} of {ordered} trials ended ({states})."]
        if winner is None:
            lines.append("No complete trial yet.")
        else:
            what = ", ".join(f"{k} {public_value(v)}" for k, v in winner.point.items() if NAME.fullmatch(k))
            lines.append(f"Best so far: trial {winner.number}, {self.search.metric} {winner.value:.4f}: {what}.")
        unfinished = not driven and (counts[State.RUNNING] or (ordered.isdigit() and ended < int(ordered)))
        commands = {"look": f"medtune status {name}"}
        if unfinished:
            commands["go on"] = f"medtune resume {name}"
        elif not driven:
            commands["export"] = f"medtune export {name} -o best.yaml"
        return "\n\n".join([*lines, *(f"To {what}: `{command}`" for what, command in commands.items())])

    def _send_metrics(
        self,
        client: MlflowClient,
        run: _Mirrored,
        metrics: Iterable[tuple[str, float | None, float, int]],
        params: dict[str, str],
    ) -> None:
        """Sends what the run lacks. An undefined or infinite value is left out: MLflow would show a number for it."""
        from mlflow.entities import Metric, Param

        if run.sent is None:
            run.sent = {(m.key, m.step) for key in run.metrics for m in client.get_metric_history(run.run_id, key)}
        new = [
            Metric(key, value, _ms(when), step)
            for key, value, when, step in metrics
            if (key, step) not in run.sent and value is not None and abs(value) < float("inf")
        ]
        lacking = [Param(name, value) for name, value in params.items() if name not in run.params]
        while new or lacking:
            batch, new = new[:BATCH], new[BATCH:]
            client.log_batch(run.run_id, metrics=batch, params=lacking, synchronous=True)
            run.sent |= {(m.key, m.step) for m in batch}
            run.params |= {p.key for p in lacking}
            lacking = []

    def _send_tags(self, client: MlflowClient, run: _Mirrored, tags: dict[str, str]) -> None:
        from mlflow.entities import RunTag

        new = {key: value for key, value in tags.items() if run.tags.get(key, "") != value}
        for start in range(0, len(new), 100):
            part = list(new.items())[start : start + 100]
            client.log_batch(run.run_id, tags=[RunTag(key, value[:5000]) for key, value in part], synchronous=True)
        run.tags |= new

    def _send_status(self, client: MlflowClient, run: _Mirrored, status: str, ended: float) -> None:
        if run.status == status:
            return
        if status == "RUNNING":
            client.update_run(run.run_id, status=status)
        else:
            client.set_terminated(run.run_id, status, _ms(ended))
        run.status = status

    def _send_dataset(self, client: MlflowClient, parent: _Mirrored) -> None:
        from mlflow.entities import Dataset, DatasetInput

        name, mark = self.search.settings.get("dataset.reader", "dataset"), self.search.data_digest[:36]
        client.log_inputs(parent.run_id, [DatasetInput(Dataset(name, mark, source_type="medtune", source="withheld"))])
        parent.has_dataset = True


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


def _status(state: State, driven: bool) -> str:
    """MLflow's status of a trial's run."""
    if not state.terminal:
        return "RUNNING" if driven else "KILLED"
    if state is State.COMPLETE:
        return "FINISHED"
    return "KILLED" if state in (State.PRUNED, State.CANCELLED) else "FAILED"


def _better(best: Trial | None, trial: Trial, direction: str) -> Trial | None:
    if not trial.state.ranked or trial.value is None:
        return best
    if best is None or best.value is None:
        return trial
    return trial if (trial.value > best.value if direction == "maximize" else trial.value < best.value) else best


def connect(uri: str) -> MlflowClient:
    """A client of the MLflow at a tracking URI; a SQLite store that isn't there is made."""
    os.environ.update(MLFLOW_SETTINGS)
    from mlflow.tracking import MlflowClient

    if uri.startswith("sqlite:///"):
        _make_store(Path(uri.removeprefix("sqlite:///")).absolute())
    return MlflowClient(tracking_uri=uri)


def _make_store(path: Path) -> None:
    """A SQLite store, there whole or not at all. MLflow makes its tables step by step: two processes that do so at
    once, or one that is killed meanwhile, leave a store that can't be opened again (seen with 3.17.2)."""
    from mlflow.tracking import MlflowClient

    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(path.name + ".lock")):
        if not path.exists():
            with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as temporary:
                made = Path(temporary) / path.name
                MlflowClient(tracking_uri=f"sqlite:///{made}").search_experiments(max_results=1)
                made.rename(path)


def _experiment(client: MlflowClient, uri: str) -> str:
    """Identifier of the experiment, made or restored where needed; two processes may do so at once."""
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(EXPERIMENT)
    if found is None:
        place = artifacts(uri).as_uri() if uri.startswith("sqlite:///") else None
        try:
            return client.create_experiment(EXPERIMENT, artifact_location=place, tags=EXPERIMENT_TAGS)
        except MlflowException:
            found = client.get_experiment_by_name(EXPERIMENT)
            if found is None:
                raise
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    return str(found.experiment_id)


def artifacts(uri: str) -> Path:
    """Folder of artifacts beside a SQLite store."""
    return Path(uri.removeprefix("sqlite:///")).absolute().parent / "mlartifacts"
