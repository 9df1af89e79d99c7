"""A search in MLflow: a parent run, and a child run for each trial, kept like the record.

Runs are found by tags that were given when they were created, and what MLflow already has is read back from it; nothing
has to be remembered elsewhere. Only what search/disclosure.py allows is sent.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from search.disclosure import (
    NAME,
    SearchFacts,
    public_backbone,
    public_cause,
    public_label,
    public_parameter,
    public_value,
)
from search.ending import Ending, early_ending
from search.mlflow_store import connect as connect
from search.mlflow_store import experiment_of
from search.note import note
from search.record import State, Trial
from spaces.mistakes import Mistake
from trainables.card import README, check_weights

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

    from search.registry import FinalModel

SEARCH_TAG, TRIAL_TAG, STATE_TAG = "medtune.search", "medtune.trial", "medtune.state"
MODEL_TAG, FILES_TAG, VERSION_TAG = "medtune.model", "medtune.files", "medtune.version"
PARENT_TAG, NOTE_TAG = "mlflow.parentRunId", "mlflow.note.content"
CURVES, CURVES_TAG = "best", "medtune.curves_of"
BATCH = 900  # metrics a call; MLflow takes 1000 metrics, parameters and tags together
LONGEST = 5000  # characters of a tag: as many as MLflow takes, servers of earlier versions too


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

    def __init__(self, tracking_uri: str, search: SearchFacts, folder: Path | None = None) -> None:
        """
        Args:
            folder: of the search, whose finals' models and best trial's curves are sent, too; None sends no files.
        """
        self.uri, self.search, self.folder = tracking_uri, search, folder
        self.left_out: list[str] = []
        """What the last update didn't send since it is missing or damaged here, a sentence each."""
        self._client: MlflowClient | None = None
        self._experiment = ""
        self._runs: dict[str, _Mirrored] | None = None
        """By trial's tag, or model's; the parent's is the empty one."""

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
            self._experiment = experiment_of(client, self.uri)
            self._runs = self._find(client)
        started = min((t.started for t in trials), default=time.time())
        parent = self._run(client, "", f"search {self.search.name}", started, {})
        for trial in trials:
            self._update_trial(client, parent, trial, driven)
        self.left_out = []
        models = self._finals()
        self._update_parent(client, parent, trials, models, driven)
        self._update_models(client, parent, models)

    def _find(self, client: MlflowClient) -> dict[str, _Mirrored]:
        found: dict[str, list[Run]] = {}
        token: str | None = None
        while token != "":
            where = f"tags.`{SEARCH_TAG}` = '{self.search.identifier}'"
            page = client.search_runs([self._experiment], where, page_token=token)
            for run in page:
                found.setdefault(run.data.tags.get(TRIAL_TAG) or run.data.tags.get(MODEL_TAG, ""), []).append(run)
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
            name: public_parameter(name, value)
            for name, value in trial.point.items()
            if NAME.fullmatch(name) and (self.search.searched is None or name in self.search.searched)
        }  # what is the same for all trials would only be an axis without a meaning
        news = not trial.state.terminal or run.tags.get(STATE_TAG) != str(trial.state)
        if news or params.keys() - run.params:  # of ended trials where the space was extended by a dimension
            self._send_metrics(client, run, self._trial_metrics(trial), params)
        tags |= {
            "medtune.number": str(trial.number),
            "medtune.seed": str(trial.seed),
            "medtune.cause": public_cause(trial.cause),
            "medtune.why": public_cause(trial.why),
            **({"medtune.seconds": f"{trial.seconds:.1f}"} if trial.state.terminal else {}),
            **{
                f"medtune.{name}": public_parameter(name, trial.point[name])
                for name in ("backbone", "trained_blocks")
                if name in trial.point
            },
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
            yield "device_hours", self._device_hours(trial), trial.ended, trial.done

    def _device_hours(self, trial: Trial) -> float:
        """Hours in epochs times the accelerators, or else the CPUs, that a trial occupies with all its workers."""
        names = ("accelerators", "cpus", "workers")
        accelerators, cpus, workers = (float(self.search.settings.get(f"resources.{name}", 0)) for name in names)
        return trial.seconds * (accelerators or cpus) * workers / 3600

    def _update_parent(
        self,
        client: MlflowClient,
        parent: _Mirrored,
        trials: list[Trial],
        models: Sequence[FinalModel],
        driven: bool,
    ) -> None:
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
        hours = sum(map(self._device_hours, trials))
        tags = {
            "medtune.metric": f"{search.metric} ({search.direction})",
            "medtune.backbones": ", ".join(map(public_backbone, search.backbones)),
            "medtune.data_digest": search.data_digest,
            "medtune.split_digest": search.split_digest,
            "medtune.best_trial": str(winner.number) if winner else "none yet",
            **classes,
            **{f"medtune.version.{package}": public_value(version) for package, version in search.versions.items()},
            **{f"medtune.setting.{name}": value for name, value in search.settings.items()},
            **{f"medtune.fixed.{name}": value for name, value in _fixed(search, trials).items()},
            **{f"medtune.trials.{state}": str(count) for state, count in counts.items()},
            "medtune.device_hours": f"{hours:.3f}",
            NOTE_TAG: note(
                search, counts, winner, driven, hours, [model.line() for model in models], self._ending(trials, driven)
            ),
        }
        self._send_tags(client, parent, tags)
        if search.data_digest and not parent.has_dataset:
            self._send_dataset(client, parent)
        if not driven:
            self._send_curves(client, parent, winner)
        if driven:
            status = "RUNNING"
        elif counts[State.RUNNING]:
            status = "KILLED"
        else:
            failed = counts[State.FAILED] + counts[State.INFEASIBLE]
            status = "FAILED" if ended and failed == len(ended) else "FINISHED"
        self._send_status(client, parent, status, max((t.ended or 0.0 for t in ended), default=time.time()))

    def _update_models(self, client: MlflowClient, parent: _Mirrored, models: Sequence[FinalModel]) -> None:
        """A run for each model of a final, with its files and a version in the registry.

        A version that somebody has deleted is not made again.
        """
        for model in models:
            from search.registry import register, send_files

            tag = f"{self.search.identifier}:{model.digest[:12]}"
            if self._is_damaged(tag, model):
                continue
            tags = {MODEL_TAG: tag, PARENT_TAG: parent.run_id}
            run = self._run(client, tag, f"final {model.name}", model.written, tags)
            if run.status == "FINISHED":
                continue
            metrics = [(key, value, model.written, 0) for key, value in model.metrics().items()]
            self._send_metrics(client, run, metrics, model.params())
            about = {"medtune.opening": model.card["opening"], "medtune.data_digest": self.search.data_digest}
            if not model.public:
                about[NOTE_TAG] = "The model itself is withheld: names of its classes look like paths."
            else:
                about[NOTE_TAG] = model.description()
                if run.tags.get(FILES_TAG) != "sent":
                    send_files(client, run.run_id, model)
                    self._send_tags(client, run, {FILES_TAG: "sent"})
                if VERSION_TAG not in run.tags:
                    self._send_tags(client, run, {VERSION_TAG: register(client, run.run_id, model, self.search.name)})
            self._send_tags(client, run, about)
            self._send_status(client, run, "FINISHED", model.written)

    def _is_damaged(self, tag: str, model: FinalModel) -> bool:
        """Whether a model's files, unless MLflow has them, aren't those that were written."""
        assert self._runs is not None
        run = self._runs.get(tag)
        if run is not None and (run.status == "FINISHED" or run.tags.get(FILES_TAG) == "sent"):
            return False
        try:
            check_weights(model.folder, model.card)
        except Mistake as mistake:
            self.left_out.append(str(mistake))
            return True
        return False

    def _send_curves(self, client: MlflowClient, parent: _Mirrored, winner: Trial | None) -> None:
        """Pictures of the best trial on validation; none where its predictions are missing or damaged."""
        if self.folder is None or winner is None:
            return
        if parent.tags.get(CURVES_TAG) == str(winner.number):
            return
        from search.curves import draw_curves
        from trainables.predictions import Predictions
        from trainables.trial_files import PREDICTIONS, trial_folder

        file = trial_folder(self.folder, winner.number) / PREDICTIONS
        try:
            predictions = Predictions.load(file)
        except (OSError, ValueError) as error:
            why = (error.strerror if isinstance(error, OSError) else None) or "damaged"
            self.left_out.append(
                f"{file}: {why}, so that there are no pictures of the best trial; restore the file from a backup."
            )
            return
        with tempfile.TemporaryDirectory() as temporary:
            title = f"Trial {winner.number} of {self.search.name}, validation"
            for picture in draw_curves(Path(temporary), predictions, list(self.search.counts["train"]), title):
                client.log_artifact(parent.run_id, str(picture), CURVES)
        self._send_tags(client, parent, {CURVES_TAG: str(winner.number)})

    def _finals(self) -> list[FinalModel]:
        """Models of finals; their code is loaded where there are any."""
        if self.folder is None or not any(self.folder.glob(f"*/model-*/{README}")):
            return []
        from search.registry import final_models

        return list(final_models(self.folder, self.left_out.append))

    def _ending(self, trials: Sequence[Trial], driven: bool) -> Ending | None:
        """Why the search ended early, if it did."""
        ordered = self.search.settings.get("budget.trials", "")
        if driven or self.folder is None or not ordered.isdigit():
            return None
        return early_ending(self.folder, trials, int(ordered))

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

        sent = {key: value[:LONGEST] for key, value in tags.items()}  # as it will be read back
        new = {key: value for key, value in sent.items() if run.tags.get(key, "") != value}
        for start in range(0, len(new), 100):
            part = list(new.items())[start : start + 100]
            client.log_batch(run.run_id, tags=[RunTag(key, value) for key, value in part], synchronous=True)
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
        counts = {
            part: {public_label(str(label)): n for label, n in of_class.items()}
            for part, of_class in self.search.counts.items()
        }
        profile = json.dumps({"images by class": counts})
        dataset = Dataset(name, mark, source_type="medtune", source="withheld", profile=profile)
        client.log_inputs(parent.run_id, [DatasetInput(dataset)])
        parent.has_dataset = True


def _fixed(search: SearchFacts, trials: list[Trial]) -> dict[str, str]:
    """What the space gives every trial alike."""
    if search.searched is None or not trials:
        return {}
    point = trials[-1].point
    return {k: public_parameter(k, v) for k, v in point.items() if NAME.fullmatch(k) and k not in search.searched}


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
