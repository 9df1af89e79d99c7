"""What README and docs say can be typed: every command is one that the command line takes, every file that is named is
there, every setting that is shown is one."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from search.folder import to_yaml
from search.settings import load
from spaces.mistakes import Mistake
from spaces.strict import parse_yaml
from tests.command_lines import PROGRAM, UNCHECKED, check

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
SETTINGS = "name: a\ndataset: {reader: folder, root: x}\nbackbones: [dinov2_base, mae_base]\n"


def blocks(text: str, *kinds: str) -> Iterator[str]:
    for kind, block in re.findall(r"```(\w*)\n(.*?)```", text, re.DOTALL):
        if kind in kinds:
            yield block


def commands(page: Path) -> Iterator[str]:
    """Lines of code blocks that begin with a program, long ones put together, and complete ones within a sentence."""
    text = page.read_text(encoding="utf-8")
    for block in blocks(text, "", "sh", "bash", "console"):
        for line in block.replace("\\\n", " ").splitlines():
            yield line.strip().removeprefix("$ ")
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    yield from (" ".join(words.split()) for words in re.findall(r"`([^`]+)`", prose))


FOUND = [
    (page.relative_to(ROOT).as_posix(), line)
    for page in PAGES
    for line in commands(page)
    if (program := PROGRAM.match(f"{line} ")) and program[1] not in UNCHECKED and " " in line
]
OTHERS = (
    ("README.md", r"--set ", "options for any of the commands above it; test_options_by_themselves parses them"),
    ("docs/getting_started.md", r"path,label,patient|scans/", "a table of images"),
    ("docs/cluster.md", r"medtune: |FROM |COPY |RUN ", "what medtune prints; a file for an image"),
    ("docs/mlflow.md", r"(tags|metrics)\.", "filters, which tests/test_pages_typed.py gives to MLflow"),
)
"""Lines of blocks that are no commands: page, what they begin with, and what they are."""


@pytest.mark.parametrize(("page", "line"), [pytest.param(*found, id=f"{found[0]}: {found[1]}") for found in FOUND])
def test_a_command_can_be_typed(page: str, line: str) -> None:
    check(line)
    words = shlex.split(line, comments=True)
    for option, value in zip(words, words[1:], strict=False):
        if option == "--set":
            check_change(value)


def check_change(change: str) -> None:
    """A setting that --set names is one."""
    try:
        load(ROOT / "examples" / "folder.yaml", [change.replace("FOLDER", "x")])
    except Mistake as mistake:
        pytest.fail(str(mistake))


def test_options_by_themselves() -> None:
    found = [line for page in PAGES for line in commands(page) if line.startswith("--set ") and "..." not in line]
    assert found
    for line in found:
        check(f"medtune search search.yaml {line}")
        for change in shlex.split(line)[1::2]:
            check_change(change)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_line_of_a_block_is_known(page: Path) -> None:
    """A program that nobody looks after is seen."""
    name = page.relative_to(ROOT).as_posix()
    for block in blocks(page.read_text(encoding="utf-8"), "", "sh", "bash", "console"):
        for line in block.replace("\\\n", " ").splitlines():
            typed = line.strip().removeprefix("$ ")
            other = any(name == of and re.match(begins, typed) for of, begins, _ in OTHERS)
            assert not typed or other or PROGRAM.match(f"{typed} "), f"{name}: {typed}"


@pytest.mark.parametrize(
    "line",
    [
        "medtune serch search.yaml",
        "medtune search search.yaml --dryrun 5",
        "medtune search search.yaml --dry-run many",
        "make tests",
        "pytest tests/test_nowhere.py",
        "python -m benchmarks.nowhere",
        "python -m benchmarks.backbones --vmambas",
        "python -m benchmarks.backbones --only time",
        "python -m benchmarks.search --repeats few",
        "python -m search.clii",
        "mlflow servers",
        "mlflow server --backend-store postgresql:///mlflow",
        "mlflow models serve -m",
        "ray upp cluster.yaml",
        "ray start --heads",
        "ray job submit --address http://127.0.0.1:8265 -- medtune serch a.yaml",
        "optuna-dashboard study.journal --ports 1",
        "make env && nowhere",
    ],
)
def test_what_nobody_takes_is_found(line: str) -> None:
    with pytest.raises((AssertionError, SystemExit)):
        check(line)


def test_there_are_as_many_as_seen() -> None:
    """A page that is written another way isn't left out unseen."""
    assert len(FOUND) > 60
    assert {"README.md", "docs/getting_started.md", "docs/models.md", "docs/cluster.md"} <= {page for page, _ in FOUND}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_and_pictures_are_there(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)#\s]+)", text):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name}: {target} isn't there"


def test_every_page_is_linked_from_readme() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    lacking = [p.name for p in (ROOT / "docs").glob("*.md") if f"(docs/{p.name})" not in readme]
    assert not lacking


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_yaml_is_valid(page: Path, tmp_path: Path) -> None:
    """Every block is YAML; one that is a whole search's settings, or some of its keys, is taken as such."""
    for block in blocks(page.read_text(encoding="utf-8"), "yaml"):
        data = parse_yaml(block, str(page))
        assert isinstance(data, dict)
        whole = {"name", "dataset", "backbones"} <= set(data)
        if whole or set(data) <= {"dataset", "backbones", "space", "budget", "study", "mlflow", "tags", "try"}:
            path = tmp_path / "search.yaml"
            own = parse_yaml(SETTINGS, "")
            merged = {**own, **data, "dataset": {**own["dataset"], **data.get("dataset", {})}}
            path.write_text(block if whole else to_yaml(merged))
            load(path)
