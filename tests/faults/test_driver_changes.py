"""What a resume takes, and what it refuses."""

import io
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest
from PIL import Image

from search import identity, launch
from search.cli import main
from search.cluster import PACKAGES
from search.console import Console
from search.folder import SETTINGS, SearchFolder, write_settings
from search.study import JOURNAL
from spaces.mistakes import Mistake
from tests.faults.searches import check_complete, fixed_list, ran, recorded, written
from tests.search.conftest import succeed

ROOT = Path(__file__).parents[2]


def change(found: SearchFolder, old: str, new: str) -> None:
    """In the settings, by hand."""
    file = found.path / SETTINGS
    text = file.read_text()
    assert text.count(old) == 1, text
    file.write_text(text.replace(old, new))


def space(found: SearchFolder) -> str:
    change(found, "batch_size: 32", "batch_size: 16")
    return "space.batch_size: was 32, is 16"


def metric(found: SearchFolder) -> str:
    change(found, "metric: accuracy", "metric: macro_f1")
    return "metric: was accuracy, is macro_f1"


def split(found: SearchFolder) -> str:
    config = found.config()
    other = config.dataset.split.model_copy(update={"seed": 7})
    dataset = config.dataset.model_copy(update={"split": other})
    write_settings(found, config.model_copy(update={"dataset": dataset}))
    return "dataset.split.seed: was 0, is 7"


def epochs(found: SearchFolder) -> str:
    change(found, "epochs: 2", "epochs: 3")
    return "budget.epochs: was 2, is 3"


def image_gone(found: SearchFolder) -> str:
    first = Path(found.config().dataset.root) / found.prepared().manifest.paths[found.prepared().train[0]]
    first.unlink()
    return f"images of class {first.parent.name}, has"


def image_other(found: SearchFolder) -> str:
    first = Path(found.config().dataset.root) / found.prepared().manifest.paths[found.prepared().train[0]]
    pixels = Image.open(first)
    pixels.putpixel((0, 0), 255 - int(pixels.getpixel((0, 0))))  # type: ignore[arg-type]
    pixels.save(first)
    return "the data (images, labels or groups): were"


@pytest.mark.parametrize("changed", [space, metric, split, epochs, image_gone, image_other])
def test_refused_with_the_difference(tmp_path: Path, changed: Callable[[SearchFolder], str]) -> None:
    """A resume after the space, metric, split, epochs or data changed is refused before Ray starts, with the
    difference, and the record stays as it is."""
    found = recorded(tmp_path)
    before = found.study().trials
    difference = changed(found)
    with pytest.raises(Mistake) as refused:
        launch.resume(found)
    assert difference in str(refused.value), refused.value
    assert "a continued search may not change it" in str(refused.value)
    assert SearchFolder(found.path).study().trials == before


def test_other_weights_are_refused(tmp_path: Path) -> None:
    """A resume with another file of weights is refused, with the backbone and both digests."""
    file = tmp_path / "weights.pth"
    file.write_bytes(b"1" * 100)
    found = recorded(tmp_path, weights={"mae_tiny": str(file)})
    file.write_bytes(b"2" * 100)
    with pytest.raises(Mistake, match="the weights of mae_tiny: were sha256:[0-9a-f]{12}, are sha256:[0-9a-f]{12};"):
        launch.resume(found)


def other_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if a file of the trials' code had been changed since."""
    files = {**identity.code_files(), "trainables/loop.py": "0" * 12}
    monkeypatch.setattr(identity, "code_files", lambda: files)
    monkeypatch.setattr(identity, "code_digest", lambda: "0" * 64)


def test_other_code_has_to_be_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A resume with other code of trials is refused with the files' names; accepted, it goes on and is recorded."""
    found = recorded(tmp_path, ended=2, running=0)
    other_code(monkeypatch)
    with pytest.raises(Mistake, match=r"\(trainables/loop.py is other\).*--accept-code-change"):
        launch.resume(found)
    ran: list[object] = []
    monkeypatch.setattr(launch, "_drive", lambda *arguments: ran.append(arguments))  # all up to Ray's start
    launch.resume(found, accept_code=True)
    [accepted] = found.study().accepted
    assert accepted["code"] == "0" * 64 and accepted["trials"] == 2
    launch.resume(found)  # accepted once is enough
    assert len(ran) == 2 and len(found.study().accepted) == 1


@pytest.mark.parametrize("package", ["pillow", "python-gdcm"])
def test_other_decoders_are_told_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    """A resume with another version of what decodes images says so, as of every other package, and goes on."""
    found, version = recorded(tmp_path, ended=2, running=0), metadata.version
    sentence = f"{package} is 0.1, the search was started with {version(package)}: values may differ;"
    monkeypatch.setattr(identity.metadata, "version", lambda name: "0.1" if name == package else version(name))
    said = io.StringIO()
    monkeypatch.setattr(launch, "_drive", lambda *_: said.write("Ray starts"))
    launch.resume(found, console=Console(said))
    before, _ = said.getvalue().split("Ray starts")
    assert sentence in before


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_file_of_the_code_that_was_changed(tmp_path: Path) -> None:
    """The same with a copy of the packages in which one line is other, through the command: refused with the file's
    name and nothing written; accepted, the search goes on, and the record keeps it."""
    found, copy = recorded(tmp_path, ended=2, running=0), tmp_path / "code"
    for package in PACKAGES:
        shutil.copytree(ROOT / package, copy / package, ignore=shutil.ignore_patterns("__pycache__"))

    def resume(*more: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "search.cli", "resume", str(found.path), *more]
        return subprocess.run(command, cwd=copy, capture_output=True, text=True, timeout=400)

    changed = copy / "trainables" / "schedule.py"
    changed.write_text(changed.read_text() + "\nCHANGED = True\n")
    before = (found.path / JOURNAL).read_bytes()
    refused = resume()
    assert refused.returncode == 2 and "(trainables/schedule.py is other)" in refused.stderr, refused.stderr
    assert (found.path / JOURNAL).read_bytes() == before and not found.log.exists()
    accepted = resume("--accept-code-change")
    assert accepted.returncode == 0, accepted.stdout + accepted.stderr
    [kept] = found.study().accepted
    assert kept["code"] != identity.code_digest() and kept["trials"] == 2
    assert resume().returncode == 0, "accepted once is enough"


def test_what_a_resume_may_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More trials, time, concurrency and other resources are taken and kept; what changes the meaning, a typo and fewer
    trials than there are aren't, and leave the settings as they were."""
    found = recorded(tmp_path, ended=3, running=0)
    old = (found.path / SETTINGS).read_text()
    ran: list[object] = []
    monkeypatch.setattr(launch, "_drive", lambda *arguments: ran.append(arguments))  # all up to Ray's start
    for wrong, told in (
        ("metric=macro_f1", "metric: was accuracy, is macro_f1; a continued search may not change it"),
        ("budget.epochs=9", "budget.epochs: was 2, is 9"),
        ("budget.trails=9", 'unknown key "trails"'),
        ("budget.trials=2", "the record has 3 trials"),
    ):
        with pytest.raises(Mistake) as refused:
            launch.resume(found, changes=[wrong])
        assert told in str(refused.value)
        assert (found.path / SETTINGS).read_text() == old and not ran
    launch.resume(found, changes=["budget.trials=9", "budget.hours=1.5", "resources={cpus: 1, concurrent: 1}"])
    assert len(ran) == 1
    config = found.config()
    assert (config.budget.trials, config.budget.hours, config.resources.concurrent) == (9, 1.5, 1)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_search_that_grows(tmp_path: Path) -> None:
    """More trials, another time limit and other resources are taken by a real resume: the search runs them, and they
    are kept for the next one."""
    settings = fixed_list(tmp_path, 4, 2)
    folder = tmp_path / "runs" / "fixed"
    less = ["--set", "budget.trials=2", "--set", "resources.concurrent=1"]
    assert ran("search", written(tmp_path, settings), *less).returncode == 0
    change = ["--set", "budget.trials=4", "--set", "budget.hours=2", "--set", "resources.concurrent=2"]
    assert "4 trials: 4 complete" in ran("resume", folder, *change).stdout
    check_complete(SearchFolder(folder), 4)
    assert main(["resume", str(folder), "--set", "seed=3"]) == 2
    assert json.loads(succeed("status", folder, "--json"))["ordered"] == 4
