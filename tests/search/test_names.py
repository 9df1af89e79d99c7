"""Names and records that a new search can't have: told before the data are looked at, and by `medtune check`."""

import io
from pathlib import Path

import optuna
import pytest

from search import places
from search.check import check
from search.cli import main
from search.console import Console
from search.ledger import NAME
from search.mlflow_store import artifacts
from search.settings import load
from search.study import database_has
from search.tracking import local_uri
from spaces.mistakes import Mistake

IN_ORDER = "Everything is in order."


@pytest.fixture
def nothing_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("search.launch.plan", lambda *_, **__: pytest.fail("the data are looked at"))


def refused(settings: Path, capsys: pytest.CaptureFixture[str], *changes: str) -> str:
    """What `medtune search` says."""
    assert main(["search", str(settings), *(word for change in changes for word in ("--set", change))]) == 2
    told = capsys.readouterr().err
    assert told.startswith("medtune: ") and len(told.splitlines()) == 1
    return told


def checked(settings: Path, *changes: str) -> str:
    """The last line of `medtune check`."""
    stream = io.StringIO()
    check(load(settings, changes), settings.parent, Console(stream))
    return stream.getvalue().rstrip().splitlines()[-1]


def test_names_of_medtunes_own_files(settings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    uri = local_uri(tmp_path)
    own = [load(settings).cache_folder.name, artifacts(uri).name, places.FILE, "check-digits.txt"]
    own += [name + end for name in (NAME, uri.split("/")[-1]) for end in ("", ".lock")]
    assert "mlflow.db.lock" in own
    for name in own:
        told = refused(settings, capsys, f"name={name}")
        assert "files of medtune's own" in told and f'found "{name}"' in told
    load(settings, ["name=cache-of-ideas"])


@pytest.mark.usefixtures("nothing_looked_at")
def test_a_name_that_is_taken(settings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "runs" / "digits"
    folder.mkdir(parents=True)
    assert "something else than a search; choose another name" in refused(settings, capsys)
    (folder / "search.yaml").touch()
    begins = f'there is a search "digits" in {folder.parent}; go on with it by "medtune resume {folder}"'
    assert begins in refused(settings, capsys)
    last = checked(settings)
    assert last.startswith(f"All else is in order, but {begins}") and IN_ORDER not in last
    assert checked(settings, "name=other") == IN_ORDER


@pytest.mark.usefixtures("nothing_looked_at")
def test_a_record_that_cant_be_opened(settings: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for url in ("sqlite:////nowhere/x.db", "nonsense"):
        assert "study: the storage can't be opened" in refused(settings, capsys, f"study={url}")
        with pytest.raises(Mistake, match="study: the storage can't be opened"):
            checked(settings, f"study={url}")


@pytest.mark.usefixtures("nothing_looked_at")
def test_a_records_database(settings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "study.db"
    url = f"sqlite:///{file}"
    assert checked(settings, f"study={url}") == IN_ORDER and not file.exists(), "nothing is left behind"
    file.touch()
    assert not database_has(url, "digits") and file.stat().st_size == 0, "no tables are made either"
    optuna.storages.RDBStorage(url).create_new_study([optuna.study.StudyDirection.MAXIMIZE], "digits")
    assert database_has(url, "digits") and not database_has(url, "other")
    assert 'has a study "digits"' in refused(settings, capsys, f"study={url}")
    last = checked(settings, f"study={url}")
    assert last.startswith('All else is in order, but the study storage has a study "digits"')
