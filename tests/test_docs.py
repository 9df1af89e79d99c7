"""What README and docs say can be typed: every command is one that the command line takes, every file that is named is
there, every setting that is shown is one."""

import argparse
import re
import shlex
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from search.cli import parser
from search.folder import to_yaml
from search.settings import load
from spaces.mistakes import Mistake
from spaces.strict import parse_yaml

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
PLACEHOLDERS = {"NUMBER": "7", "N": "5", "K": "3"}
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
    if re.match(r"(medtune|make|python -m|\.venv/bin/python|pytest) ", line)
]


@pytest.mark.parametrize(("page", "line"), [pytest.param(*found, id=f"{found[0]}: {found[1]}") for found in FOUND])
def test_a_command_can_be_typed(page: str, line: str) -> None:
    for command in shlex.join(shlex.split(line.split("    (")[0], comments=True)).split(" '&&' "):
        can_be_typed(shlex.split(command))


def can_be_typed(words: list[str]) -> None:
    while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
        del words[0]
    if words[0] == "medtune":
        takes([PLACEHOLDERS.get(word, word) for word in words[1:]])
    elif words[0] == "make":
        targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
        asked = {word for word in words[1:] if "=" not in word}
        assert asked <= targets, f"Makefile has no {asked - targets}"
    elif words[:2] == ["python", "-m"]:
        assert find_spec(words[2]), f"there is no module {words[2]}"
    for word in words[1:]:
        if word.startswith(("tests/", "benchmarks/", "examples/")):
            assert (ROOT / word.partition("::")[0]).exists(), f"there is no {word}"


def takes(words: list[str]) -> None:
    """Whether the command line takes these words; within a sentence a command may stand without what it works on."""
    if words == ["--help"]:
        return
    top = parser()
    [chosen] = [a for a in top._actions if isinstance(a, argparse._SubParsersAction)]
    assert words[0] in chosen.choices, f"there is no command {words[0]}"
    sub = chosen.choices[words[0]]
    known = {option for action in sub._actions for option in action.option_strings}
    assert {word for word in words if re.match(r"--?\w", word)} <= known, "unknown options"
    needed = [a for a in sub._actions if not a.option_strings or a.required]
    positional = [word for word in words[1:] if not word.startswith("-")]
    if len(positional) >= len([a for a in needed if not a.option_strings]):
        options = top.parse_args(words)
        for change in getattr(options, "changes", []):
            check_change(change)


def check_change(change: str) -> None:
    """A setting that --set names is one."""
    path = ROOT / "examples" / "folder.yaml"
    changed = change.replace("FOLDER", "x")
    try:
        load(path, [changed])
    except Mistake as mistake:
        pytest.fail(str(mistake))


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
