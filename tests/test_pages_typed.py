"""The commands of four pages of docs, typed as they stand there, on handwritten digits.

    python -m pytest -m slow -s tests/test_pages_typed.py

README's part and docs/tasks.md are typed by tests/test_walkthrough.py, docs/cluster.md by tests/cluster. What needs a
network or an accelerator is exchanged, and the names that stand for a folder's: nothing else.
"""

import csv
import re
import shutil
from pathlib import Path

import pytest

from search.folder import find
from search.mlflow_store import EXPERIMENT, connect
from search.sampler import Sampler
from search.study import JOURNAL, Study, only_writer, open_storage
from search.tracking import local_uri
from spaces.library import assemble
from tests.faults.test_input_images import dicom
from tests.search.conftest import status, write_digits
from tests.search.finals import search_of
from tests.test_docs import ROOT, blocks
from tests.test_walkthrough import Desk, lines, stop, table_of_digits

PAGES = ("getting_started", "living_with_it", "mlflow", "models")
COMMAND = re.compile(r"([A-Z_]+=\S+ )?(medtune|make|mlflow|curl|export|source|pytest|python -m) \S")
ONLY_PARSED = {
    "make env": "the environment that runs this is it",
    "source .venv/bin/activate": "as above",
    "make demo": "tests/search/test_demo.py runs it",
    "python -m pytest -m slow -s tests/test_walkthrough.py": "a test of its own",
    "PICTURES=docs/pictures pytest -m slow tests/search/test_pages.py": "a test of its own, which needs a browser",
    "pytest -m slow tests/search/test_registry.py": "a test of its own",
    "medtune final": "named within a sentence; typed with its arguments elsewhere on the page",
    "medtune predict": "as above",
}
"""Commands on these pages that aren't typed here, and why. tests/test_docs.py parses them like all others."""
EXCHANGED = {
    "[dinov2_base, mae_base]": "[dinov2_tiny, mae_tiny]\nweights: random\n"
    "space: {batch_size: 32, trained_blocks: 0, head: linear}",
    "budget: {trials: 50, epochs: 30}": "budget: {trials: 7, epochs: 2}",
    "resources: {accelerators: 1, cpus: 4}": "resources: {cpus: 1}",
}
UNFINISHED = 7  # the trial that living_with_it.md cancels


def text_of(page: str) -> str:
    return (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")


def commands_of(page: str) -> set[str]:
    """Every command of a page, of its blocks and within its sentences."""
    text = text_of(page)
    found = [line for block in blocks(text, "") for line in lines(block)]
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    found += [" ".join(words.split()) for words in re.findall(r"`([^`]+)`", prose)]
    return {line for line in found if COMMAND.match(line)}


def test_what_is_only_parsed_is_there() -> None:
    assert set(ONLY_PARSED) <= set().union(*(commands_of(page) for page in PAGES))


class Typist:
    """Types what stands on pages, and knows what was typed."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.typed: set[str] = set()

    def type(self, line: str, **instead: str) -> str:
        """A line of a page; `instead` says what stands in place of a name there."""
        self.typed.add(line)
        for name, real in instead.items():
            assert name in line
            line = line.replace(name, real)
        if line.startswith("medtune ui"):
            stop(self.desk.serve(line))
            return ""
        return self.desk.type(line)

    def part(self, page: str, heading: str) -> list[str]:
        """The commands of the blocks under a heading, without those that are only parsed."""
        [own] = [p for p in re.split(r"^#+ ", text_of(page), flags=re.MULTILINE) if p.startswith(heading)]
        found = [line for block in blocks(own, "") for line in lines(block) if COMMAND.match(line)]
        return [line for line in found if line not in ONLY_PARSED]


def leave_unfinished(folder: Path) -> None:
    """One more trial, as a driver that was killed leaves it."""
    found = find(str(folder))
    config, space = found.config(), assemble(found.config())
    with only_writer(found.path):
        study = Study.open(open_storage(found.path, None), config.name)
        assert len(study.trials) == UNFINISHED, f"{found.path / JOURNAL}: not as many trials as were ordered"
        point = space.complete({"backbone": "mae_tiny"})
        distributions = Sampler(space, "maximize", 0, "random", study.trials).distributions(point)
        study.add(point, space.keyed(point), distributions, seed=7, job="job-00007", why="tpe")


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_four_pages(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    typist = Typist(desk)
    table_of_digits(tmp_path)
    settings = next(block for block in blocks(text_of("getting_started"), "yaml") if block.startswith("# search.yaml"))
    for what, instead in EXCHANGED.items():
        assert what in settings
        settings = settings.replace(what, instead)
    (tmp_path / "search.yaml").write_text(settings)
    lesions = tmp_path / "runs" / "lesions"

    for line in typist.part("getting_started", "Install"):
        assert "COMMAND" in typist.type(line)
    for line in typist.part("getting_started", "Look before you start"):
        typist.type(line)
    assert len(status(tmp_path / "runs" / "try")["trials"]) == 4
    search, resume, more, shown, pages, listed = typist.part("getting_started", "Search")
    typist.type(search)
    typist.type(resume)

    leave_unfinished(lesions)
    write_digits(tmp_path / "images", 150)
    alike = {"metric": "balanced_accuracy", "classes_averaged": None}
    for name in ("lesions-2", "scans"):
        search_of(tmp_path, name=name, **alike)
    for line in typist.part("living_with_it", "Living with searches"):
        said = typist.type(line)
        if "cancel" in line:
            assert status(lesions)["trials"][UNFINISHED]["state"] == "cancelled", said
        if "extend" in line:
            assert len(status(lesions)["trials"]) == 100
    assert "Datasets by backbones" in (tmp_path / "both.html").read_text()
    assert (tmp_path / "bundle" / "README.md").is_file()

    typist.type(more)
    assert "100 of 100 trials" in typist.type(shown)
    typist.type(pages)
    assert "lesions-2" in typist.type(listed)
    for line in [*typist.part("getting_started", "The result"), *typist.part("getting_started", "Use the model")]:
        typist.type(line)
    with (tmp_path / "predictions.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 20

    predict_models(typist, lesions)
    for line in sorted(line for line in commands_of("mlflow") if "NAME" in line):
        typist.type(line, NAME="lesions")
    typist.type("medtune sync SEARCH", SEARCH="lesions")
    [filters] = [block for block in blocks(text_of("mlflow"), "") if block.startswith("tags.")]
    client = connect(local_uri(tmp_path / "runs"))
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    for line in lines(filters):
        found = client.search_runs([experiment.experiment_id], line.replace("mae_base", "mae_tiny"))
        assert found or "backbone" not in line, "trials of both backbones are complete; a value above .9 need not be"
    serve_models(typist)
    lacking = set().union(*(commands_of(page) for page in PAGES)) - typist.typed - set(ONLY_PARSED)
    assert not lacking, "on a page, but neither typed nor listed as only parsed"


def predict_models(typist: Typist, lesions: Path) -> None:
    """The part of models.md that predicts, with models of three searches."""
    folder = typist.desk.folder
    pictures = sorted((folder / "new_images").iterdir())
    (folder / "scan.dcm").write_bytes(dicom(8, 8, bytes(range(64))))
    (folder / "new.png").write_bytes(pictures[0].read_bytes())
    with (folder / "listed.csv").open("w", newline="") as file:
        rows = [[f"new_images/{picture.name}", f"study{index // 2}"] for index, picture in enumerate(pictures)]
        csv.writer(file).writerows([["path", "study"], *rows])
    [model] = (lesions / "final").glob("model-*")
    for name in "ab":
        shutil.copytree(model, folder / "runs" / name / "final" / f"model-{name.upper()}")
    for line in typist.part("models", "Predicting"):
        if "NAME" not in line:
            typist.type(line)
            continue
        typist.type(line, NAME=model.name.removeprefix("model-"))
        with (folder / "predictions.csv").open(newline="") as file:
            assert len(list(csv.DictReader(file))) == (10 if "--per" in line else 21)
    for name in "ab":
        shutil.rmtree(folder / "runs" / name)


def serve_models(typist: Typist) -> None:
    """The part of models.md that serves, and the lines of Python there."""
    desk = typist.desk
    address, server, curl = typist.part("models", "MLflow's registry")
    desk.environment["MLFLOW_TRACKING_URI"] = address.partition("=")[2]
    running = desk.serve(server, "http://127.0.0.1:5001/ping")
    try:
        assert "predicted" in desk.type(curl)
    finally:
        stop(running)
    typist.typed |= {address, server, curl}
    [python] = blocks(text_of("models"), "python")
    (desk.folder / "ask.py").write_text(python)
    desk.type("python ask.py")
