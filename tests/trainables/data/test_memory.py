"""What is remembered between starts, and what happens where it can't be."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from spaces.mistakes import Mistake
from trainables.data.memory import Memory


def of(file: Path) -> Memory:
    return Memory(file, "sizes", ("path", "height", "width"))


def test_rows_are_kept_and_replaced_by_key(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "sizes.sqlite"
    assert of(file).rows() == []
    of(file).add([("a", 1, 2), ("b", 3, 4)])
    of(file).add([("b", 5, 6)])
    of(file).add([])
    assert sorted(of(file).rows()) == [("a", 1, 2), ("b", 5, 6)]


def test_a_damaged_file_is_replaced(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "sizes.sqlite"
    file.write_bytes(b"no database" * 500)
    with caplog.at_level(logging.WARNING):
        assert of(file).rows() == []
    assert "damaged" in caplog.text
    of(file).add([("a", 1, 2)])
    assert of(file).rows() == [("a", 1, 2)]


def test_a_folder_that_cannot_be_written_is_a_mistake(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(Mistake, match="set `cache` to a writable folder"):
        of(tmp_path / "file" / "sizes.sqlite").rows()


def test_what_cannot_be_added_costs_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    memory = of(tmp_path / "sizes.sqlite")
    memory.rows()
    memory.database.unlink()
    memory.database.mkdir()
    with caplog.at_level(logging.WARNING):
        memory.add([("a", 1, 2)])
    assert "1 rows couldn't be remembered" in caplog.text
