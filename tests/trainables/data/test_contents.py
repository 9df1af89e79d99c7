from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from spaces.mistakes import Mistake
from trainables.data.contents import content_hash, content_hashes


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "data"
    root.mkdir()
    for name in "abc":
        (root / name).write_text(name * 5)
        os.utime(root / name, (1_600_000_000, 1_600_000_000))
    return root


def test_is_the_hash_of_the_bytes(root: Path, cache: Path) -> None:
    assert content_hashes(root, ["a", "b"], cache).tolist() == [content_hash(b"aaaaa"), content_hash(b"bbbbb")]


def test_remembers_by_size_and_time(root: Path, cache: Path) -> None:
    before = content_hashes(root, ["a", "b", "c"], cache)
    (root / "a").write_text("other")  # the same size
    os.utime(root / "a", (1_600_000_000, 1_600_000_000))
    assert content_hashes(root, ["a", "b", "c"], cache).tolist() == before.tolist(), "wasn't read again"
    os.utime(root / "a", (1_600_000_001, 1_600_000_001))
    after = content_hashes(root, ["a", "b", "c"], cache)
    assert after[0] == content_hash(b"other") and after[1:].tolist() == before[1:].tolist()


def test_a_young_file_is_read_again(root: Path, cache: Path) -> None:
    (root / "a").write_text("first")
    status = (root / "a").stat()
    content_hashes(root, ["a"], cache)
    (root / "a").write_text("again")
    os.utime(root / "a", ns=(status.st_atime_ns, status.st_mtime_ns))
    assert content_hashes(root, ["a"], cache).tolist() == [content_hash(b"again")]


def test_a_damaged_memory_is_replaced(root: Path, cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    before = content_hashes(root, ["a"], cache)
    (database,) = (cache / "contents").glob("*.sqlite")
    database.write_bytes(b"no database" * 500)
    with caplog.at_level(logging.WARNING):
        assert content_hashes(root, ["a"], cache).tolist() == before.tolist()
    assert "damaged" in caplog.text


def test_missing_files_are_told_together(root: Path, cache: Path) -> None:
    with pytest.raises(Mistake) as mistake:
        content_hashes(root, ["a", *(f"missing{i}" for i in range(12))], cache)
    assert len(mistake.value.sentences) == 11
    assert mistake.value.sentences[-1] == "dataset: 2 more files that can't be read (12 in all)."
