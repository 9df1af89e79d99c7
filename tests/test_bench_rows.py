"""From tables of CheXpert's layout to a split, in miniature, in a process of its own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.rows import VALID, checked_whole, drawn_hashes, main, measure, write_chexpert
from trainables.data.hamming import near_components
from trainables.data.near import LIMIT


def test_every_step_is_timed_in_a_fresh_process(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "rows.json"
    sizes = ["--rows", "1500", "--patients", "500"]
    assert main([*sizes, "--bounded", "--folder", str(tmp_path), "--json", str(file)]) == 0
    found = json.loads(file.read_text())
    assert (found["rows"], found["groups"]) == (1500 + VALID, 500 + VALID)
    assert all(found[step] > 0 for step in ("table", "contents", "remembered", "manifest", "split", "processor"))
    assert 10 < found["peak_mib"] < 1024
    printed = capsys.readouterr().out
    assert f"{1500 + VALID} rows" in printed and "peak memory" in printed
    assert [path.name for path in tmp_path.iterdir()] == ["rows.json"], "what was made is removed"


def test_the_whole_of_check_is_timed(tmp_path: Path) -> None:
    root = tmp_path / "CheXpert-v1.0-small"
    root.mkdir()
    write_chexpert(root, 1500, 500)
    found = measure(root, tmp_path / "cache")
    assert found.check is not None and found.alike is not None and found.check > 0 and found.alike > 0
    told = [str(line) for line in checked_whole(root, tmp_path / "cache")]
    assert told[-1] == "Everything is in order." and any("What validation can show" in line for line in told)
    assert len(near_components(drawn_hashes(300), LIMIT)) == 300
