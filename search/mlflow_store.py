"""Where runs are kept: a client of an MLflow, its store where that is a file, and the experiment of all searches."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

SQLITE = "sqlite:///"
EXPERIMENT = "medtune"
EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}  # opens on training runs, not on traces
MLFLOW_SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",  # a repeated create_run would make a second run; we look for it first
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_LOGGING_LEVEL": "WARNING",  # making a database tells of each of its steps
}


def connect(uri: str) -> MlflowClient:
    """A client of the MLflow at a tracking URI; a SQLite store that isn't there is made."""
    os.environ.update(MLFLOW_SETTINGS)
    from mlflow.tracking import MlflowClient

    if uri.startswith(SQLITE):
        _make_store(Path(uri.removeprefix(SQLITE)).absolute())
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


def experiment_of(client: MlflowClient, uri: str) -> str:
    """Identifier of the experiment, made or restored where needed; two processes may do so at once."""
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(EXPERIMENT)
    if found is None:
        place = artifacts(uri).as_uri() if uri.startswith(SQLITE) else None
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
    """Folder of artifacts beside a SQLite store. Raises ValueError of another URI: a server has its own place."""
    if not uri.startswith(SQLITE):
        raise ValueError("no SQLite store")
    return Path(uri.removeprefix(SQLITE)).absolute().parent / "mlartifacts"
