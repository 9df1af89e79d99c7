"""Models of finals in MLflow's registry: there once, with their interval, and served as `medtune predict` answers."""

from __future__ import annotations

import base64
import csv
import io
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from search.console import Console
from search.final import _register
from search.final import final as run_final
from search.folder import SETTINGS, SearchFolder
from search.interval_text import interval_text
from search.mirror import MODEL_TAG, Mirror
from search.mlflow_store import MLFLOW_SETTINGS, connect
from search.record import best
from search.registry import FinalModel, final_models, requirements
from search.tracking import follow, local_uri, search_facts, sync_once
from search.ui import free_port
from tests.search.conftest import succeed, write_digits
from tests.search.finals import final_of, search_of
from tests.search.test_predict import SEARCH
from trainables.card import CARD, README, WEIGHTS, write_card
from trainables.trial_files import PREDICTIONS, trial_folder

STARTING = 240  # seconds that a server may take on a busy machine


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SearchFolder:
    """A search with a final; MLflow is off. To be copied."""
    home = tmp_path_factory.mktemp("made")
    write_digits(home / "images", 200)
    found = search_of(home, **SEARCH)
    final_of(found)
    predictions = next((found.path / "final" / "runs").glob("*/validation.npz"))
    (found.path / "trials" / "00000").mkdir(parents=True)
    shutil.copy(predictions, found.path / "trials" / "00000" / "validation.npz")
    return found


def with_mlflow(folder: Path, setting: str) -> None:
    text = (folder / SETTINGS).read_text()
    changed = re.sub(r"(?m)^mlflow: .*$", f"mlflow: {setting}", text)
    assert changed != text
    (folder / SETTINGS).write_text(changed)


@pytest.fixture
def search(made: SearchFolder, tmp_path: Path) -> Path:
    """A copy, to be mirrored beside it."""
    folder = tmp_path / "digits"
    shutil.copytree(made.path, folder)
    with_mlflow(folder, "local")
    return folder


def all_runs(search: Path, where: str = "") -> list[Any]:
    client = connect(local_uri(search.parent))
    experiment = client.get_experiment_by_name("medtune").experiment_id
    return list(client.search_runs([experiment], where))


def model_runs(search: Path) -> list[Any]:
    return all_runs(search, f"tags.`{MODEL_TAG}` LIKE '%'")


def versions(search: Path) -> list[Any]:
    return list(connect(local_uri(search.parent)).search_model_versions("name = 'medtune-digits'"))


def test_models_count_when_they_are_whole(made: SearchFolder, tmp_path: Path) -> None:
    folder = tmp_path / "digits"
    shutil.copytree(made.path, folder)
    [model] = final_models(folder)
    assert model.name == model.folder.name and model.public
    (folder / "final").rename(folder / "final-2")
    [again] = final_models(folder)
    assert again.name == f"final-2-{model.name}" and again.digest == model.digest
    (again.folder / README).rename(tmp_path / README)
    assert not list(final_models(folder))
    (tmp_path / README).rename(again.folder / README)
    (folder / "final-2" / "result.json").unlink()
    assert not list(final_models(folder))


def test_what_a_person_reads(made: SearchFolder) -> None:
    [model] = final_models(made.path)
    interval = model.card["test"]
    text = model.description()
    sure = {**interval, "value": 0.9, "low": 0.8, "high": 0.95, "warnings": []}
    whole = FinalModel(model.folder, {**model.card, "test": sure}).description()
    assert "**balanced_accuracy 0.9000 [0.8000, 0.9500]** on the test set, with its 95% interval" in whole
    assert f"**balanced_accuracy {interval_text(interval)}** on the test set, with its 95% interval" in text
    assert interval_text(model.card["expected"]) in text and "opening 1 of this test set" in text.lower()
    assert "RANDOM" in text and "Not a medical device" in text and str(made.path) not in text
    assert model.metrics()["test_balanced_accuracy"] == interval["value"]
    withheld = FinalModel(model.folder, {**model.card, "classes": ["benign", "/data/jane"]})
    assert not withheld.public
    needs = {need.partition("==")[0] for need in requirements()}
    assert {"torch", "timm", "pillow", "pydantic"} <= needs and not needs & {"ray", "optuna", "matplotlib"}
    assert not any("+" in need for need in requirements())


def test_an_address_that_is_refused_by_now_is_told_where_a_final_would_register(
    search: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An earlier version took a database; the mirror would refuse it in a file that nobody reads."""
    with_mlflow(search, "postgresql://user:secret@127.0.0.1:1/mlflow")
    started: list[Path] = []
    monkeypatch.setattr("search.final.start_mirror", started.append)
    output = io.StringIO()
    _register(search, search / "final", Console(output))
    told = output.getvalue()
    assert told.startswith('MLflow: not registered: mlflow: "postgresql://127.0.0.1:1/mlflow" is a database')
    assert told.endswith(f"(mlflow stands in {search / SETTINGS}): medtune sync {search}\n")
    assert "secret" not in told and not started
    with_mlflow(search, "local")
    _register(search, search / "final", Console(output))
    assert started == [search] and 'registering as "medtune-digits"' in output.getvalue()


def test_damaged_predictions_of_the_best_only_have_no_pictures(tmp_path: Path) -> None:
    """The rest is sent, and the search's own run ends."""
    write_digits(tmp_path / "images", 100)
    found = search_of(tmp_path, **{**SEARCH, "mlflow": "local"})
    winner = best(found.study().trials, "maximize")
    assert winner is not None
    folder = trial_folder(found.path, winner.number)
    folder.mkdir(parents=True)
    (folder / PREDICTIONS).write_bytes(b"PK\3\4, and no more of a zip archive")
    left_out: list[str] = []
    sync_once(found.path, left_out.append)
    [sentence] = left_out
    assert sentence.startswith(f"{folder / PREDICTIONS}: damaged, so that there are no pictures of the best trial; ")
    [parent] = [r for r in all_runs(found.path) if "mlflow.parentRunId" not in r.data.tags]
    assert parent.info.status != "RUNNING" and "best_value" in parent.data.metrics
    (folder / PREDICTIONS).unlink()
    said = succeed("sync", found.path)
    assert f"Not sent: {folder / PREDICTIONS}: No such file or directory, so that" in said


def test_a_damaged_model_is_not_registered_and_is_named(search: Path) -> None:
    """By its card, and by its weights; the search itself is there all the same."""
    [model] = final_models(search)
    for name, said in ((CARD, "is no JSON: the model folder is damaged"), (WEIGHTS, f"digest that {CARD} says")):
        file = model.folder / name
        whole = file.read_bytes()
        file.write_bytes(whole[:-10])
        told = succeed("sync", search)
        assert "is up to date with digits, 1 trial, but for what stands below" in told
        [sentence] = [line for line in told.splitlines() if line.startswith("Not sent: ")]
        assert sentence.startswith(f"Not sent: {file}: ") and said in sentence and "run the final anew" in sentence
        assert not model_runs(search) and not versions(search)
        file.write_bytes(whole)


def test_what_was_left_out_is_told_once_while_a_search_is_followed(
    search: Path, caplog: pytest.LogCaptureFixture
) -> None:
    [model] = final_models(search)
    (model.folder / CARD).write_text("{}")
    with caplog.at_level(logging.WARNING, "search.tracking"):
        assert follow(search, poll=0.1)
    told = [r.getMessage() for r in caplog.records if r.name == "search.tracking"]
    assert len(told) == 1 and told[0].startswith(f"not sent: final/{model.folder.name}/{CARD}: ")


@pytest.mark.slow
def test_registered_once_with_its_interval(search: Path) -> None:
    sync_once(search)
    [version], [run] = versions(search), model_runs(search)
    [model] = final_models(search)
    assert version.run_id == run.info.run_id and interval_text(model.card["test"]) in version.description
    assert version.tags["medtune.model"] == model.digest
    assert run.data.tags["medtune.version"] == "1" and run.info.status == "FINISHED"
    assert run.data.metrics["test_balanced_accuracy"] == model.card["test"]["value"]
    assert run.data.params["backbone"] == "dinov2_tiny"
    client = connect(local_uri(search.parent))
    assert {f.path for f in client.list_artifacts(run.info.run_id, "model/data")} == {f"model/data/{model.folder.name}"}
    parent = client.get_run(run.data.tags["mlflow.parentRunId"])
    page = parent.data.tags["mlflow.note.content"]
    assert (
        "Final model-dinov2_tiny-" in page
        and "balanced_accuracy 0.9000 [0.85" in page
        and "medtune resume digits" in page
    )
    found = SearchFolder(search)
    seconds, resources = found.study().trials[0].seconds, found.config().resources
    of_trial = client.search_runs([run.info.experiment_id], "tags.`medtune.number` = '0'")[0].data.metrics
    assert of_trial["device_hours"] == pytest.approx(seconds * resources.cpus / 3600) and seconds > 0
    assert parent.data.tags["medtune.device_hours"] == f"{seconds * resources.cpus / 3600:.3f}"
    assert {f.path for f in client.list_artifacts(parent.info.run_id, "best")} == {
        "best/roc.png", "best/reliability.png", "best/confusion_matrix.png",
    }  # fmt: skip
    [dataset] = parent.inputs.dataset_inputs
    counts = json.loads(dataset.dataset.profile)["images by class"]
    assert sum(counts["train"].values()) == 128 and sum(counts["test"].values()) == 40
    files = b"".join(p.read_bytes() for p in (search.parent / "mlartifacts").rglob("*") if p.is_file())
    assert str(search.parent).encode() not in files and b"jane" not in files
    sync_once(search)
    assert len(versions(search)) == len(model_runs(search)) == 1
    client.delete_model_version("medtune-digits", "1")  # by somebody who doesn't want it
    sync_once(search)
    assert not versions(search)


class Cut(Exception):
    """The connection broke."""


class Breaking:
    """MLflow's client; one call breaks before it is carried out, or after."""

    def __init__(self, client: Any, at: str, carried_out: bool) -> None:
        self.client, self.at, self.carried_out = client, at, carried_out

    def __getattr__(self, name: str) -> Any:
        call = getattr(self.client, name)

        def maybe(*args: Any, **options: Any) -> Any:
            if name != self.at:
                return call(*args, **options)
            self.at = ""
            if self.carried_out:
                call(*args, **options)
            raise Cut

        return maybe


@pytest.mark.slow
@pytest.mark.parametrize("carried_out", [False, True])
def test_a_cut_makes_no_second_version(search: Path, carried_out: bool) -> None:
    trials = SearchFolder(search).study().trials
    for at in ("create_registered_model", "create_model_version", "log_artifacts"):
        uri = f"sqlite:///{search.parent}/{at}/mlflow.db"
        mirror = Mirror(uri, search_facts(search), search)
        mirror._client = Breaking(connect(uri), at, carried_out)  # type: ignore[assignment]
        with pytest.raises(Cut):
            mirror.update(trials, driven=False)
        mirror = Mirror(uri, search_facts(search), search)
        mirror.update(trials, driven=False)
        found = connect(uri).search_model_versions("name = 'medtune-digits'")
        assert [v.version for v in found] in (["1"], [1]), at


@pytest.mark.slow
def test_a_model_whose_classes_look_like_paths_stays_here(search: Path) -> None:
    [model] = final_models(search)
    card = {**model.card, "classes": [f"ward/{name}" for name in model.card["classes"]]}
    write_card(model.folder, {key: value for key, value in card.items() if key != "digest"})
    sync_once(search)
    [run] = model_runs(search)
    assert not versions(search) and "withheld" in run.data.tags["mlflow.note.content"]
    assert "ward" not in json.dumps([run.data.tags, run.data.params])
    assert not connect(local_uri(search.parent)).list_artifacts(run.info.run_id)


@pytest.fixture
def served(search: Path) -> Iterator[str]:
    """The address of MLflow's own server with the registered model, from another folder than the project's."""
    sync_once(search)
    port = free_port()
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # it starts uvicorn by name
    environment = {**os.environ, **MLFLOW_SETTINGS, "MLFLOW_TRACKING_URI": local_uri(search.parent), "PATH": path}
    command = ["models", "serve", "-m", "models:/medtune-digits/1", "--env-manager", "local", "-p", str(port)]
    with (search.parent / "server.txt").open("wb") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "mlflow", *command], cwd=search.parent, env=environment, stdout=log, stderr=log
        )
    try:
        deadline = time.monotonic() + STARTING
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=5).close()
                break
            except OSError:
                assert server.poll() is None and time.monotonic() < deadline, (search.parent / "server.txt").read_text()
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/invocations"
    finally:
        for process in [*psutil.Process(server.pid).children(recursive=True), server]:
            process.kill()
        server.wait()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_mlflow_serves_what_predict_says(search: Path, served: str, made: SearchFolder, tmp_path: Path) -> None:
    images = sorted((made.path.parents[1] / "images").rglob("*.png"))[::25]
    rows = [[base64.b64encode(path.read_bytes()).decode()] for path in images]
    body = json.dumps({"dataframe_split": {"columns": ["image"], "data": rows}}).encode()
    request = urllib.request.Request(served, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=120) as response:
        answers = json.load(response)["predictions"]
    succeed("predict", next((search / "final").glob("model-*")), *images, "-o", tmp_path / "p.csv")
    with (tmp_path / "p.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert len(answers) == len(table) == len(images) > 5
    for answer, row in zip(answers, table, strict=True):
        assert list(answer) == [name for name in row if name != "image"]
        assert answer["predicted"] == row["predicted"]
        for name, value in answer.items():
            if name != "predicted":
                assert value == pytest.approx(float(row[name]), abs=1e-5)


@pytest.mark.slow
def test_a_final_succeeds_while_mlflow_is_away(made: SearchFolder, tmp_path: Path) -> None:
    settings = made.path / SETTINGS
    before = settings.read_text()
    try:
        with_mlflow(made.path, f"http://127.0.0.1:{free_port()}")
        folder = run_final([next(made.path.glob("best*.yaml"))], seeds=2)
        mirrors = [p for p in psutil.process_iter(["cmdline"]) if str(made.path) in (p.info["cmdline"] or [])]
        assert len(mirrors) == 1 and "sync" in mirrors[0].info["cmdline"]
        for process in mirrors:
            process.kill()
        assert list(final_models(made.path)) and folder == made.path / "final"
    finally:
        settings.write_text(before)
