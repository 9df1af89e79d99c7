"""Places where no result can be written are told before anything is computed, by every command that has -o."""

import argparse
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from search import demo as demo_module
from search.cli import main, parser
from search.export import export
from search.folder import SearchFolder
from tests.search.conftest import write_digits
from tests.search.finals import search_of

FILES = {"export": "best.yaml", "report": "report.html", "predict": "predictions.csv"}
FOLDERS = {"final": "final", "demo": "demo"}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> SearchFolder:
    """Of a complete trial; its export lies beside its storage."""
    home = tmp_path_factory.mktemp("outputs")
    write_digits(home / "images", 150)
    made = search_of(home, backbones=["dinov2_tiny"], strategy="free")
    export(made, home / "best.yaml")
    return made


@pytest.fixture
def arguments(found: SearchFolder, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], list[str]]:
    """What precedes -o: what would be computed from must not even be looked for (a model), or made."""
    monkeypatch.setattr(demo_module, "write_digits", lambda folder: pytest.fail("the demo has begun"))
    monkeypatch.setattr("search.final.train", lambda *_: pytest.fail("the final has begun"))
    given = {
        "export": [str(found.path)],
        "report": [str(found.path)],
        "predict": ["no-model", "no-images"],
        "final": [str(found.path.parents[1] / "best.yaml")],
        "demo": [],
    }
    return lambda command: [command, *given[command]]


def test_these_are_all_commands_with_an_output() -> None:
    [commands] = [a for a in parser()._actions if isinstance(a, argparse._SubParsersAction)]
    have = {name for name, sub in commands.choices.items() if any("-o" in a.option_strings for a in sub._actions)}
    assert have == {*FILES, *FOLDERS}


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(words) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"medtune: {words[0]}: -") and len(told.splitlines()) == 1, told
    return told


@pytest.mark.parametrize("command", [*FILES, *FOLDERS])
def test_where_nothing_can_be_written(
    command: str, arguments: Callable[[str], list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = {**FILES, **FOLDERS}[command]
    assert "/proc/" in refused([*arguments(command), "-o", f"/proc/{name}"], capsys)
    (tmp_path / "file").touch()
    refused([*arguments(command), "-o", str(tmp_path / "file" / name)], capsys)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("command", FILES)
def test_files_in_folders_that_are_there(
    command: str, arguments: Callable[[str], list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = refused([*arguments(command), "-o", str(tmp_path / "nowhere" / FILES[command])], capsys)
    assert "there is no folder" in missing and "make it first" in missing
    assert "is a folder" in refused([*arguments(command), "-o", str(tmp_path)], capsys)
    os.mkfifo(tmp_path / "pipe")
    assert "expected a file" in refused([*arguments(command), "-o", str(tmp_path / "pipe")], capsys)
    assert [p.name for p in tmp_path.iterdir()] == ["pipe"]


@pytest.mark.parametrize("command", FILES)
def test_something_else_isnt_replaced(
    command: str, arguments: Callable[[str], list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / FILES[command]
    output.write_text("name: mine\n")
    told = refused([*arguments(command), "-o", str(output)], capsys)
    assert f"-o {output}: is there already, and no " in told and "name another file" in told
    assert output.read_text() == "name: mine\n"


def test_pages_and_tables_of_ones_own_arent_replaced(
    found: SearchFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "README.md").write_text("# Mine\n")
    (tmp_path / "labels.csv").write_text("path,label\na.png,b\n")
    for name in ("README.md", "labels.csv"):
        refused(["report", str(found.path), "-o", str(tmp_path / name)], capsys)


def test_what_is_to_be_read_isnt_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Though it is an earlier result, or named in another way."""
    table = tmp_path / "predictions.csv"
    table.write_text("path,predicted,p_a\n")
    (tmp_path / "link.csv").symlink_to(table)
    same = tmp_path / ".." / tmp_path.name / table.name
    for output in (table, tmp_path / "link.csv"):
        told = refused(["predict", "no-model", str(same), "-o", str(output)], capsys)
        assert "is to be read, and would be replaced; name another file" in told
    assert table.read_text() == "path,predicted,p_a\n"


def test_earlier_results_and_empty_files_are_replaced(
    found: SearchFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command, name in (("export", "e.yaml"), ("report", "r.html"), ("report", "r.md"), ("report", "r.csv")):
        (tmp_path / name).touch()
        for _ in range(2):
            assert main([command, str(found.path), "-o", str(tmp_path / name)]) == 0
            assert (tmp_path / name).stat().st_size
    (tmp_path / "best-1.yaml").write_text("name: mine\n")
    told = refused(["export", str(found.path), "-o", str(tmp_path / "best.yaml"), "--top", "1"], capsys)
    assert "best-1.yaml: is there already" in told


@pytest.mark.parametrize("command", FOLDERS)
def test_folders_where_files_are(
    command: str, arguments: Callable[[str], list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("mine")
    assert "is a file" in refused([*arguments(command), "-o", str(tmp_path / "file")], capsys)
    assert (tmp_path / "file").read_text() == "mine"


def test_bundles(found: SearchFolder, capsys: pytest.CaptureFixture[str]) -> None:
    told = refused(["export", str(found.path), "--bundle", "/proc/bundle"], capsys)
    assert "can't be written to" in told


def test_a_final_on_a_cluster_that_isnt_there_makes_nothing(
    found: SearchFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    exported = str(found.path.parents[1] / "best.yaml")
    assert main(["final", exported, "--seeds", "1", "--workers", "2", "-o", str(tmp_path / "out")]) == 2
    assert "127.0.0.1:1: nothing answers there" in capsys.readouterr().err and not list(tmp_path.iterdir())


@pytest.mark.parametrize("workers", [[], ["--workers", "4000"]])
def test_a_final_that_fits_nowhere_makes_nothing(
    found: SearchFolder, workers: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = found.path.parents[1]
    exported = home / "large.yaml"
    cpus = 1 if workers else 4000
    exported.write_text((home / "best.yaml").read_text().replace("cpus: 1", f"cpus: {cpus}"))
    places = (home / "medtune.local.yaml").read_text()
    assert places
    before = sorted(home.rglob("*"))
    for output in (["-o", str(tmp_path / "out")], []):
        assert main(["final", str(exported), "--seeds", "1", *workers, *output]) == 2
        assert "4000 CPUs" in capsys.readouterr().err
    assert sorted(home.rglob("*")) == before and not list(tmp_path.iterdir())
