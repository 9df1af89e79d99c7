"""The commands that a report ends with: they write the files that they use, and are taken as they stand."""

import json
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest

from search.cli import parser
from search.export import export
from search.final_result import finals
from search.folder import SearchFolder
from search.repeat import commands
from search.report import report
from tests.search.conftest import write_digits
from tests.search.finals import search_of
from tests.search.test_report import make


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("repeat")
    write_digits(home / "secret-folder", 300)
    return home


@pytest.fixture(scope="module")
def found(data: Path) -> SearchFolder:
    """Twenty complete trials, and nothing else yet."""
    return make(data, 30, name="found")


def with_final(
    found: SearchFolder, folder: Path, *of: tuple[list[int], dict[str, Any]], search: str = "found"
) -> SearchFolder:
    """A copy with finals of these trials, as their results say it; `of`: numbers of trials, and of the opening."""
    copy = SearchFolder(shutil.copytree(found.path, folder / "found"))
    for count, (numbers, opening) in enumerate(of, 1):
        made = copy.path / ("final" if count == 1 else f"final-{count}")
        made.mkdir()
        told = {"opening": count, "searches": 1, "configurations": 1, "what": "", "reason": "", **opening}
        configurations = [
            {"name": f"c{n}", "found": {"search": search, "trial": n}, "seeds": [{"seed": 0}, {"seed": 1}]}
            for n in numbers
        ]
        result = {"format": 1, "fit": "train", "opening": told, "counts": {"test": {"0": 1}}}
        (made / "result.json").write_text(json.dumps({**result, "configurations": configurations}))
    return copy


def told(found: SearchFolder) -> list[str]:
    study = found.study()
    return commands(found.config(), study.trials, study.identity["direction"], finals(found.path))


def check(lines: list[str], found: SearchFolder, folder: Path) -> None:
    """Every command is one of medtune's, and each file that a final names is written by an export before it."""
    written: set[str] = set()
    for line in lines:
        asked = parser().parse_args(shlex.split(line)[1:])
        if line.startswith("medtune export"):
            written |= {p.name for p, _ in export(found, folder / asked.output, top=asked.top, per=asked.per)}
        if line.startswith("medtune final"):
            assert set(asked.exports) <= written, line


def order(found: SearchFolder) -> list[int]:
    complete = [t for t in found.study().trials if t.value is not None]
    return [t.number for t in sorted(complete, key=lambda t: (-(t.value or 0.0), t.number))]


def test_of_the_two_best(found: SearchFolder, tmp_path: Path) -> None:
    copy = with_final(found, tmp_path, (order(found)[:2], {}))
    lines = told(copy)
    assert lines == [
        "medtune search search.yaml",
        "medtune export found -o best.yaml --top 2",
        "medtune final best-1.yaml best-2.yaml --seeds 2",
        "medtune report found -o report.html",
    ]
    check(lines, copy, tmp_path)


def test_of_the_best_of_each_backbone(found: SearchFolder, tmp_path: Path) -> None:
    trials = found.study().trials
    best = [next(n for n in order(found) if trials[n].point["backbone"] == b) for b in ("dinov2_tiny", "mae_tiny")]
    lines = told(with_final(found, tmp_path, (best, {})))
    assert "medtune final best-dinov2_tiny.yaml best-mae_tiny.yaml --seeds 2" in lines
    assert "medtune export found -o best.yaml --per backbone" in lines
    check(lines, found, tmp_path)


def test_of_one_that_was_not_the_best(found: SearchFolder, tmp_path: Path) -> None:
    trials, ranks = found.study().trials, order(found)
    firsts = {next(n for n in ranks if trials[n].point["backbone"] == b) for b in ("dinov2_tiny", "mae_tiny")}
    rank = next(rank for rank, number in enumerate(ranks) if number not in firsts)
    lines = told(with_final(found, tmp_path, ([ranks[rank]], {})))
    assert f"medtune export found -o best.yaml --top {rank + 1}" in lines
    assert f"medtune final best-{rank + 1}.yaml --seeds 2" in lines
    check(lines, found, tmp_path)


def test_a_second_final_says_why(found: SearchFolder, tmp_path: Path) -> None:
    first, second = order(found)[:2]
    copy = with_final(found, tmp_path, ([first], {}), ([first, second], {"reason": 'a reviewer\'s  "wish"'}))
    lines = told(copy)
    assert lines[1:3] == ["medtune export found -o best.yaml", "medtune export found -o best.yaml --top 2"]
    assert lines[3] == "medtune final best.yaml --seeds 2"
    assert parser().parse_args(shlex.split(lines[4])[1:]).again == 'a reviewer\'s "wish"'
    check(lines, copy, tmp_path)


def test_what_another_search_found_is_said(found: SearchFolder, tmp_path: Path) -> None:
    lines = told(with_final(found, tmp_path, ([3], {}), search="other"))
    assert lines[1] == "# other-3.yaml: trial 3 of the search other, exported from there"
    assert lines[2] == "medtune final other-3.yaml --seeds 2" and not any("export found" in line for line in lines)


def test_before_any_final(found: SearchFolder, data: Path, tmp_path: Path) -> None:
    assert told(found)[1:3] == ["medtune export found -o best.yaml", "medtune final best.yaml"]
    (data / "images").symlink_to(data / "secret-folder")
    compared = search_of(data, strategy="compare")
    lines = told(compared)
    assert lines[1:3] == [
        "medtune export made -o best.yaml --per backbone",
        "medtune final best-dinov2_tiny.yaml best-mae_tiny.yaml",
    ]
    check(lines, compared, tmp_path)
    for file in ("r.html", "r.md"):
        text = report([compared], tmp_path / file).read_text(encoding="utf-8")
        assert "\n".join(lines) in text
