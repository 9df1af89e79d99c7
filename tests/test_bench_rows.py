"""From tables of CheXpert's layout to a split, in miniature, in a process of its own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.rows import VALID, main


def test_every_step_is_timed_in_a_fresh_process(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "rows.json"
    assert main(["--rows", "1500", "--patients", "500", "--folder", str(tmp_path), "--json", str(file)]) == 0
    found = json.loads(file.read_text())
    assert (found["rows"], found["groups"]) == (1500 + VALID, 500 + VALID)
    assert all(found[step] > 0 for step in ("table", "contents", "remembered", "manifest", "split", "processor"))
    assert 10 < found["peak_mib"] < 1024
    printed = capsys.readouterr().out
    assert f"{1500 + VALID} rows" in printed and "peak memory" in printed
    assert [path.name for path in tmp_path.iterdir()] == ["rows.json"], "what was made is removed"
