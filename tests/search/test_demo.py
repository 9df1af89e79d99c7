"""The demo's folder: what a second demo leaves as it was. The search in it is a made-up record."""

import io
import shutil
from pathlib import Path
from typing import Any

import pytest

from search import demo as demo_module
from search.console import Console
from search.demo import AGAIN, NAME, demo
from search.folder import SearchFolder
from search.settings import load
from tests.search.conftest import write_digits
from tests.search.finals import search_of


def test_a_second_demo_removes_the_first_ones_search_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rates = iter((5e-3, 4e-3))  # so that the second final is another opening of the test

    def search(config: Any, base: Path, **_: Any) -> SearchFolder:
        own = {"name": NAME, "backbones": ["dinov2_tiny"], "strategy": "free", "budget": {"trials": 1, "epochs": 1}}
        space = {"batch_size": 32, "head": "linear", "trained_blocks": 0, "head_lr": next(rates)}
        return search_of(base, **own, space=space)

    def images(folder: Path) -> int:
        write_digits(folder, 150)
        return 150

    monkeypatch.setattr("search.launch.search", search)
    monkeypatch.setattr(demo_module, "write_digits", images)
    folder, first, second = tmp_path / "demo", io.StringIO(), io.StringIO()
    assert demo(folder, Console(first)) == 0
    assert AGAIN not in first.getvalue() and load(folder / "search.yaml").name == NAME
    openings = (folder / "runs" / "test-openings.jsonl").read_text()
    mine = folder / "runs" / "mine"  # made by the command that the demo prints
    shutil.copytree(folder / "runs" / NAME, mine)
    for name in ("table.yaml", "images/labels.csv"):
        (folder / name).write_text("mine")
    old = folder / "runs" / NAME / "old"
    old.touch()

    assert demo(folder, Console(second)) == 0
    assert f'--again "{AGAIN}"' in second.getvalue() and not old.exists()
    assert (mine / "search.yaml").is_file() and (mine / "final" / "result.json").is_file()
    assert [(folder / name).read_text() for name in ("table.yaml", "images/labels.csv")] == ["mine", "mine"]
    now = (folder / "runs" / "test-openings.jsonl").read_text()
    assert now.startswith(openings) and len(now.splitlines()) == 2 and AGAIN in now
