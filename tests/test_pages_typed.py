"""The commands of docs, typed as they stand there, on handwritten digits: all of four pages, and of others what can be
typed without hours, accounts or other machines. What isn't typed is listed with the reason.

    python -m pytest -m slow -s tests/test_pages_typed.py

README's part and docs/tasks.md are typed by tests/test_walkthrough.py, docs/cluster.md by tests/cluster. What needs a
network or an accelerator is exchanged, and the names that stand for a folder's: nothing else.
"""

import csv
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from search.folder import SETTINGS, find, to_yaml
from search.mlflow_store import EXPERIMENT, connect
from search.sampler import Sampler
from search.study import JOURNAL, Study, only_writer, open_storage
from search.tracking import local_uri
from spaces.library import assemble
from spaces.strict import parse_yaml
from tests.command_lines import PROGRAM
from tests.faults.test_input_images import dicom
from tests.search.conftest import status, write_digits
from tests.search.finals import final_of, search_of
from tests.search.test_external import CHANGES, digits_in
from tests.test_docs import PAGES as ALL_PAGES
from tests.test_docs import blocks
from tests.test_walkthrough import Desk, lines, stop, table_of_digits

PAGES = ("getting_started", "living_with_it", "mlflow", "models")
ONLY_PARSED = {
    "make env": "the environment that runs this is it",
    "source .venv/bin/activate": "as above",
    "git clone": "what is typed in is a clone",
    "make demo": "tests/search/test_demo.py runs it",
    "python -m pytest -m slow -s tests/test_walkthrough.py": "a test of its own",
    "PICTURES=docs/pictures pytest -m slow tests/search/test_pages.py": "a test of its own, which needs a browser",
    "pytest -m slow tests/search/test_registry.py": "a test of its own",
    "medtune final": "named within a sentence; typed with its arguments elsewhere on the page",
    "medtune predict": "as above",
}
"""Commands on these pages that aren't typed here, and why. tests/test_docs.py parses them like all others."""
ELSEWHERE = {
    "README": "tests/test_walkthrough.py types its own images; the four datasets and the cluster aren't here",
    "tasks": "tests/test_walkthrough.py types all of it",
    "cluster": "several machines; tests/cluster, tests/test_cluster.py and tests/test_slurm.py run what one can",
}
"""Pages that are typed by other tests, or can't be."""
NAMED = "named within a sentence, without what it works on"
FIGURES = "a benchmark: minutes to hours; tests/test_bench*.py run parts of it"
TESTS = "these tests"
LIKE = "typed on one of the four pages, with other names or numbers"
FOUR = "asks for four trials at once, for which a machine may be too small"
TYPED_TOO = {
    "datasets": {"medtune final --evaluate other.yaml runs/NAME/final/model-*"},
    "results": {"medtune final --evaluate DATASET.yaml MODEL_DIR"},
    "record": {"medtune sync NAME", "medtune ui NAME"},
}
"""Commands of other pages that are typed here."""
NOT_TYPED: dict[str, dict[str, str]] = {
    "CHANGELOG": {"export --bundle": LIKE, "make test-faults": TESTS},
    "CONTRIBUTING": {
        "make env": "the environment that runs this is it",
        "make lint": "run for every change, by .ci/run",
        "make test": TESTS,
        "make test-faults": TESTS,
        "make lock": "asks the package registry",
    },
    "architecture": {"medtune check": NAMED, "medtune sync --follow": NAMED},
    "augmentation": {"python -m benchmarks.policies": "tests/test_policy_pictures.py runs it"},
    "backbones": {"medtune check": NAMED},
    "benchmarks": {
        "make bench-backbones": FIGURES,
        "make bench-overhead": FIGURES,
        "make bench-rows": FIGURES,
        "make bench-search": FIGURES,
        "make bench-statistics": FIGURES,
        "medtune check": NAMED,
        "pytest -s tests/trainables/test_selection.py": TESTS,
        "python -m benchmarks.backbones": FIGURES,
        "python -m benchmarks.backbones --size base --backbones vmamba_t --only speed --batch 1 --repeats 3 "
        "--seconds 0": FIGURES,
        "python -m benchmarks.backbones --size base --only memory": FIGURES,
        "python -m benchmarks.backbones --variants --seconds .3 --repeats 5": FIGURES,
        "python -m benchmarks.backbones --vmamba": FIGURES,
        "python -m benchmarks.device": FIGURES,
        "python -m benchmarks.rows": FIGURES,
        "python -m benchmarks.sampler --repeats 60": FIGURES,
        "python -m benchmarks.search": FIGURES,
        "python -m benchmarks.search --equal-quality --trials 10 --epochs 6 --repeats 1": FIGURES,
        "python -m benchmarks.search --regime NAME --repeats 3 --plain-repeats 1 --plain-epochs 3": FIGURES,
        "python -m benchmarks.search.inside": FIGURES,
        "python -m benchmarks.statistics": FIGURES,
    },
    "datasets": {"make bench-rows": FIGURES, "medtune check": NAMED},
    "extending": {},
    "paper": {"medtune check": NAMED},
    "record": {
        "medtune final": NAMED,
        "medtune resume": NAMED,
        "medtune resume NAME --set budget.trials=100": LIKE,
        "optuna-dashboard runs/NAME/study.journal": "tests/search/test_dashboard.py opens it, at a free port",
    },
    "reliability": {
        "make test": TESTS,
        "make test-faults": TESTS,
        "medtune resume NAME": LIKE,
        "medtune resume NAME --set budget.trials=100 --set budget.hours=12 --set resources.concurrent=4": FOUR,
        "medtune sync": NAMED,
        "medtune sync NAME": LIKE,
    },
    "results": {
        "make bench-statistics": FIGURES,
        "medtune final": NAMED,
        "pytest tests/search/test_learnable.py": TESTS,
        "python -m benchmarks.statistics --cases calibration --replicates 200 --groups 12 50 250": FIGURES,
    },
    "scaling": {
        "make bench-driver": FIGURES,
        "medtune prune": NAMED,
        "python -m benchmarks.driver --study URL": FIGURES,
    },
    "spaces": {"export --per backbone": LIKE, "medtune check": NAMED, "python -m benchmarks.sampler": FIGURES},
    "speed": {"medtune check": NAMED, "python -m benchmarks.backbones --variants": FIGURES},
}
"""By page: commands that aren't typed, and why. tests/test_docs.py parses those of programs that it knows."""
EXCHANGED = {
    "[dinov2_base, mae_base]": "[dinov2_tiny, mae_tiny]\nweights: random\n"
    "space: {batch_size: 32, trained_blocks: 0, head: linear}",
    "budget: {trials: 50, epochs: 30}": "budget: {trials: 7, epochs: 2}",
    "resources: {accelerators: 1, cpus: 4}": "resources: {cpus: 1}",
}
UNFINISHED = 7  # the trial that living_with_it.md cancels


def text_of(page: str) -> str:
    [file] = [path for path in ALL_PAGES if path.stem == page]
    return file.read_text(encoding="utf-8")


def commands_of(page: str) -> set[str]:
    """Every command of a page, of its blocks and within its sentences."""
    text = text_of(page)
    found = [line for block in blocks(text, "") for line in lines(block)]
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    found += [" ".join(words.split()) for words in re.findall(r"`([^`]+)`", prose)]
    return {line for line in found if PROGRAM.match(line)}


def test_what_is_only_parsed_is_there() -> None:
    assert set(ONLY_PARSED) <= set().union(*(commands_of(page) for page in PAGES))


def test_every_page_has_its_place() -> None:
    assert sorted([*PAGES, *ELSEWHERE, *NOT_TYPED]) == sorted(path.stem for path in ALL_PAGES)


@pytest.mark.parametrize("page", NOT_TYPED)
def test_what_is_not_typed_is_listed(page: str) -> None:
    """A command that comes to a page is typed here, or listed with the reason; one that goes is listed no longer."""
    assert commands_of(page) == set(NOT_TYPED[page]) | TYPED_TOO.get(page, set())


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
        found = [line for block in blocks(own, "") for line in lines(block) if PROGRAM.match(line)]
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


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_commands_of_other_pages(tmp_path: Path) -> None:
    """With a search whose record is made up, and a real final of one seed."""
    typist = Typist(Desk(tmp_path))
    digits_in(tmp_path)
    (tmp_path / "other.yaml").write_text("reader: folder\nroot: others\n")
    found = search_of(tmp_path, **CHANGES)
    [model] = final_of(found, seeds=1).glob("model-*")
    settings = found.path / SETTINGS
    assert "mlflow: off\n" in settings.read_text()
    settings.write_text(settings.read_text().replace("mlflow: off\n", "mlflow: local\n"))
    [evaluate] = TYPED_TOO["datasets"]
    assert "of the external set" in typist.type(evaluate, NAME="made")
    [evaluate] = TYPED_TOO["results"]
    instead = {"DATASET.yaml": "other.yaml", "MODEL_DIR": str(model.relative_to(tmp_path))}
    assert "of the external set" in typist.type(evaluate, **instead)
    for command in sorted(TYPED_TOO["record"]):
        typist.type(command, NAME="made")
    assert typist.typed == set().union(*TYPED_TOO.values())


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("page", ["augmentation", "spaces"])
def test_settings_of_a_page_give_configurations(page: str, tmp_path: Path) -> None:
    """Each block of a space's or of a policy's keys, by `--dry-run` on digits."""
    desk = Desk(tmp_path)
    write_digits(tmp_path / "images", 150)
    dataset = {"reader": "folder", "root": "images"}
    settings = {"name": "a", "backbones": ["dinov2_tiny", "mae_tiny"], "weights": "random", "mlflow": "off"}
    found = [data for block in blocks(text_of(page), "yaml") if (data := parse_yaml(block, page)) and typeable(data)]
    assert found
    for data in found:
        merged = {**settings, "dataset": {**dataset, **data.get("dataset", {})}, "space": data.get("space", {})}
        if not {"dataset", "space"} & set(data):
            merged["space"] = data
        (tmp_path / "search.yaml").write_text(to_yaml(merged))
        assert "5 of 50 trials" in desk.type("medtune search search.yaml --dry-run 5")


def typeable(data: dict[str, Any]) -> bool:
    """Whether settings need no other images or weights than there are."""
    return not {"backbones", "weights"} & set(data) and "reader" not in data.get("dataset", {})
