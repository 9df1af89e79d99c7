"""A bundle repeats a search elsewhere, and tells nothing of this machine or of a patient."""

import csv
import json
import shutil
from pathlib import Path

import pytest

from search.bundle import bundle, hashed, portable, split_table
from search.folder import SearchFolder
from search.identity import identity
from search.plan import plan
from search.record import best
from search.settings import load
from search.trial_text import value_text
from spaces.config import SearchConfig
from spaces.mistakes import Mistake
from tests.search.conftest import medtune, write_digits
from tests.search.test_report import SETTINGS, make
from trainables.trial_files import PREDICTIONS, trial_folder

PATIENT = "patient-4711"


def table(root: Path) -> None:
    write_digits(root / "images", 150)
    rows = ["path,label,patient"]
    for path in sorted((root / "images").rglob("*.png")):
        rows.append(f"{path.relative_to(root).as_posix()},{path.parent.name},{PATIENT}-{int(path.stem) // 2}")
    (root / "labels.csv").write_text("\n".join(rows) + "\n")


OPTIONS = {"table": "labels.csv", "group": "patient"}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> SearchFolder:
    """A search on a table with patients."""
    folder = tmp_path_factory.mktemp("bundle")
    table(folder / "secret-folder")
    dataset = {"reader": "csv", "root": "secret-folder", "policy": "digits", "options": OPTIONS}
    made = make(folder, 14, name="found", dataset=dataset, tags=["secret-tag"])
    for trial in made.study().trials:
        if trial.value is not None:
            file = trial_folder(made.path, trial.number) / PREDICTIONS
            file.parent.mkdir(parents=True)
            file.write_bytes(b"predictions")
    return made


@pytest.fixture(scope="module")
def made(found: SearchFolder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundle(found, tmp_path_factory.mktemp("elsewhere") / "bundle")


def test_nothing_of_this_machine_and_of_nobody(found: SearchFolder, made: Path) -> None:
    words = [str(found.path), str(found.path.parents[1]), "secret-folder", "secret-tag", PATIENT, "4711", "images/"]
    words += found.prepared().manifest.contents.tolist()[:5]
    for file in filter(Path.is_file, made.rglob("*")):
        data = file.read_bytes()
        assert not [word for word in words if word.encode() in data], file.name


def test_everything_is_there(found: SearchFolder, made: Path) -> None:
    complete = [t.number for t in found.study().trials if t.value is not None]
    assert sorted(int(p.stem) for p in (made / "predictions").iterdir()) == complete
    rows = list(csv.DictReader((made / "results.csv").open()))
    assert len(rows) == 14 and all(row["head_lr"] for row in rows)
    told = json.loads((made / "bundle.json").read_text())
    assert told["kind"] == "medtune bundle" and told["split"] == found.study().identity["split"]
    readme = (made / "README.md").read_text()
    winner = best(found.study().trials, "maximize")
    assert "medtune search search.yaml" in readme and winner is not None
    assert "medtune diff" not in readme, "which reads searches"
    assert "at the foot of its report" in readme and told["data"] in readme
    assert f"{value_text(winner, 'balanced_accuracy', 4)} on validation, with its 95% interval over groups." in readme


def test_it_is_the_same_search_elsewhere(found: SearchFolder, made: Path, tmp_path: Path) -> None:
    shutil.copytree(made, tmp_path / "there")
    table(tmp_path / "there" / "dataset")
    config = load(tmp_path / "there" / "search.yaml", [f"storage={tmp_path / 'runs'}"])
    planned = plan(config, tmp_path / "there", decoded=False)
    there, here = identity(planned), found.study().identity
    same = ("data", "split", "test", "weights", "code", "counts", "first", "metric")
    assert [name for name in same if there[name] != here[name]] == []
    assert there["settings"] == here["settings"]
    told = json.loads((made / "bundle.json").read_text())
    assert split_table(planned.prepared, told["salt"]) == (made / "split.csv").read_text()


def test_the_split_is_told_by_hashes(found: SearchFolder, made: Path) -> None:
    rows = list(csv.DictReader((made / "split.csv").open()))
    prepared = found.prepared()
    assert len(rows) == len(prepared.manifest)
    assert sum(row["part"] == "validation" for row in rows) == len(prepared.validation)
    parts: dict[str, set[str]] = {}
    for row in rows:
        parts.setdefault(row["group"], set()).add(row["part"])
    assert all(len(of_group) == 1 for of_group in parts.values()) and len(parts) < len(rows)
    assert hashed("a", "image", "x") != hashed("b", "image", "x")


def test_settings_without_paths() -> None:
    config = SearchConfig.parse(
        {
            **SETTINGS,
            "dataset": {
                "reader": "csv",
                "root": "/mnt/x/chest",
                "options": {"table": "/mnt/y/all.csv", "group": "who"},
            },
            "weights": {"mae_tiny": "/home/me/mae.pth", "dinov2_tiny": "random"},
            "study": "postgresql://me:word@host/db",
            "mlflow": "http://me:word@host:5000",
            "cache": "/scratch/me",
        },
        "test",
    )
    text = json.dumps(portable(config).plain())
    assert "mae.pth" in text and "all.csv" in text
    assert not [secret for secret in ("/mnt", "/home", "/scratch", "word", "host") if secret in text]


def test_mistakes(found: SearchFolder, made: Path, tmp_path: Path) -> None:
    with pytest.raises(Mistake, match="exists already"):
        bundle(found, made)
    with pytest.raises(Mistake, match="there is no folder"):
        bundle(found, tmp_path / "a" / "b")
    done = medtune("export", found.path, "--bundle", tmp_path / "b", "--top", "2")
    assert done.returncode == 2 and "--bundle holds every trial" in done.stderr
    assert medtune("export", found.path, "--bundle", tmp_path / "b").returncode == 0
