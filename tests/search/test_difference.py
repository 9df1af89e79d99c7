"""What differs between two searches, and nothing else."""

import shutil
from pathlib import Path

import pytest

from search.difference import difference
from search.folder import SearchFolder
from tests.search.conftest import succeed, write_digits
from tests.search.test_report import SETTINGS, make


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[SearchFolder, SearchFolder]:
    folder = tmp_path_factory.mktemp("difference")
    write_digits(folder / "secret-folder", 150)
    space = {**SETTINGS["space"], "head_lr": {"float": [1e-5, 1e-1], "log": True}}  # type: ignore[dict-item]
    split = {"reader": "folder", "root": "secret-folder", "policy": "digits", "split": {"seed": 1}}
    return make(folder, 12, name="a"), make(folder, 8, name="b", space=space, dataset=split)


def test_nothing_differs_from_itself(pair: tuple[SearchFolder, SearchFolder]) -> None:
    assert difference(pair[0], pair[0]) == []


def test_each_part(pair: tuple[SearchFolder, SearchFolder]) -> None:
    found = {(one.part, one.what): (one.first, one.second) for one in difference(*pair)}
    assert found[("settings", "dataset.split.seed")] == ("0", "1")
    assert found[("space", "head_lr")] == ("0.0001 to 0.1 (log)", "1e-05 to 0.1 (log)")
    assert found[("results", "trials")] == ("12", "8")
    parts = {part for part, _ in found}
    assert "split" in parts and "results" in parts
    assert "data" not in parts or not any(what == "digest" for part, what in found if part == "data")
    assert not {"code", "versions"} & parts


def test_the_command(pair: tuple[SearchFolder, SearchFolder]) -> None:
    first, second = (str(found.path) for found in pair)
    shown = succeed("diff", first, second)
    assert "dataset.split.seed" in shown and "1e-05 to 0.1" in shown
    assert "Nothing differs." in succeed("diff", first, first)


def test_settings_are_shown_as_they_are_written(pair: tuple[SearchFolder, SearchFolder], tmp_path: Path) -> None:
    """Not as Python has them: neither None nor quotes around every key."""
    file = tmp_path / "b" / "search.yaml"
    shutil.copytree(pair[1].path, file.parent)
    file.write_text(file.read_text().replace("plateau: null", "plateau: 5").replace("head_lr: 0.005", "head_lr: 0.006"))
    found = {one.what: (one.first, one.second) for one in difference(pair[1], SearchFolder(file.parent))}
    assert found["budget.plateau"] == ("-", "5")
    assert found["try"][1] == "[{backbone: mae_tiny, trained_blocks: 0, head_lr: 0.006}]"
    told = [text for one in difference(*pair) for text in (one.first, one.second)]
    assert not any(word in text for text in told for word in ("None", "True", "False", "{'"))


def test_folders_are_not_compared(pair: tuple[SearchFolder, SearchFolder]) -> None:
    assert not any(one.what in ("storage", "name", "cache") for one in difference(*pair))
    assert all(str(Path.home()) not in one.first for one in difference(*pair))
