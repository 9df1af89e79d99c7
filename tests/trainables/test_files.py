"""Files and folders: whole or not at all, even where the process is killed in between."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from trainables.files import folder_atomic, remove_partial, replacing, write_json, write_text

KILL = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"


def killed(code: str, *arguments: Path) -> None:
    """Runs code that kills its own process."""
    code = f"import sys; from pathlib import Path; from trainables.files import *\n{code}"
    done = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], cwd=Path(__file__).parents[2])
    assert done.returncode == -signal.SIGKILL


def test_a_file_takes_its_place_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file"
    for content in (b"first", b"second"):
        with replacing(path) as file:
            file.write(content)
            assert not path.exists() or path.read_bytes() == b"first"
        assert path.read_bytes() == content
        assert list(path.parent.iterdir()) == [path]


def test_a_file_stays_as_it_was_when_writing_fails(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_text(path, "before")
    with pytest.raises(KeyboardInterrupt), replacing(path) as file:
        file.write(b"half")
        raise KeyboardInterrupt
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_text_and_json(tmp_path: Path) -> None:
    write_text(tmp_path / "text", "ä\r\nb\n")
    assert (tmp_path / "text").read_bytes() == b"\xc3\xa4\r\nb\n"
    data = {"a": [1, 2.5, None], "b": {"c": "é"}}
    write_json(tmp_path / "data.json", data)
    assert json.loads((tmp_path / "data.json").read_text()) == data
    with pytest.raises(TypeError):
        write_json(tmp_path / "data.json", object())
    assert json.loads((tmp_path / "data.json").read_text()) == data


def test_a_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder"
    with folder_atomic(path) as partial:
        (partial / "old").write_text("1")
        assert not path.exists()
    with folder_atomic(path) as partial:
        (partial / "inside").mkdir()
        (partial / "inside" / "new").write_text("2")
        assert [p.name for p in path.iterdir()] == ["old"]
    assert [str(p.relative_to(path)) for p in sorted(path.rglob("*"))] == ["inside", "inside/new"]
    assert list(path.parent.iterdir()) == [path]


def test_a_folder_stays_as_it_was_when_filling_it_fails(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    with folder_atomic(path) as partial:
        (partial / "old").write_text("1")
    with pytest.raises(KeyboardInterrupt), folder_atomic(path) as partial:
        (partial / "new").write_text("2")
        raise KeyboardInterrupt
    assert [p.name for p in path.iterdir()] == ["old"]
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_is_put_back_where_the_new_one_cant_take_its_place(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    with folder_atomic(path) as partial:
        (partial / "old").write_text("1")
    with pytest.raises(FileNotFoundError), folder_atomic(path) as partial:
        (partial / "new").write_text("2")
        partial.rename(tmp_path / "elsewhere")
    assert [p.name for p in path.iterdir()] == ["old"]


def test_killed_between_writing_and_renaming(tmp_path: Path) -> None:
    write_text(tmp_path / "file", "before")
    with folder_atomic(tmp_path / "folder") as partial:
        (partial / "old").write_text("1")
    killed(
        f"with replacing(Path(sys.argv[1])) as file:\n file.write(b'half'); file.flush()\n {KILL}", tmp_path / "file"
    )
    killed(f"with folder_atomic(Path(sys.argv[1])) as p:\n (p / 'new').touch()\n {KILL}", tmp_path / "folder")
    assert (tmp_path / "file").read_text() == "before"
    assert [p.name for p in (tmp_path / "folder").iterdir()] == ["old"]
    left = sorted(p.name for p in tmp_path.iterdir() if p.name.startswith("."))
    assert len(left) == 2
    remove_partial(tmp_path, "fold*")
    assert sorted(p.name for p in tmp_path.iterdir()) == [left[0], "file", "folder"]
    remove_partial(tmp_path, "file")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]


@pytest.mark.parametrize(("mask", "file_mode", "folder_mode"), [(0o022, 0o644, 0o755), (0o077, 0o600, 0o700)])
def test_who_may_read_is_the_users_choice(tmp_path: Path, mask: int, file_mode: int, folder_mode: int) -> None:
    before = os.umask(mask)
    try:
        write_text(tmp_path / "file", "x")
        with folder_atomic(tmp_path / "folder"):
            pass
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == file_mode
    assert (tmp_path / "folder").stat().st_mode & 0o777 == folder_mode
