"""A record or a ledger that is damaged in the middle, or missing: one sentence, and nothing is written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from search.folder import SearchFolder
from search.ledger import NAME, Ledger, SealedTest
from search.study import JOURNAL, Study, existing_storage, open_storage
from spaces.mistakes import Mistake
from tests.faults.searches import recorded
from tests.search.conftest import medtune


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> SearchFolder:
    """A search of four complete trials. Its journal is to be put back."""
    return recorded(tmp_path_factory.mktemp("recorded"), mlflow="local")


def no_json(lines: list[bytes]) -> tuple[list[bytes], str]:
    return [*lines[:5], lines[5][:-3], *lines[6:]], "line 6: damaged (no JSON)"


def no_text(lines: list[bytes]) -> tuple[list[bytes], str]:
    return [*lines[:5], lines[5][:-3] + b"\xff" + lines[5][-2:], *lines[6:]], "line 6: damaged (no JSON)"


def zeros(lines: list[bytes]) -> tuple[list[bytes], str]:
    """As after a power cut. The last line, whose damage Optuna would tell only after another one is written."""
    return [*lines[:-1], bytes(len(lines[-1]))], f"line {len(lines)}: damaged (no JSON)"


def no_operation(lines: list[bytes]) -> tuple[list[bytes], str]:
    return [*lines[:5], b"{}", *lines[6:]], "its lines don't fit together: KeyError"


def other_words(lines: list[bytes]) -> tuple[list[bytes], str]:
    at = next(i for i, line in enumerate(lines) if b"medtune:trial" in line)
    return [*lines[:at], lines[at].replace(b'"seed"', b'"sexd"'), *lines[at + 1 :]], "KeyError: 'seed'"


@pytest.mark.parametrize("damage", [no_json, no_text, zeros, no_operation, other_words])
def test_a_damaged_journal(
    found: SearchFolder, tmp_path: Path, damage: Callable[[list[bytes]], tuple[list[bytes], str]]
) -> None:
    """Status, export, sync and resume say where, and what to do; with the file put back, all is as before."""
    journal = found.path / JOURNAL
    before = journal.read_bytes()
    damaged, said = damage(before.split(b"\n")[:-1])
    try:
        journal.write_bytes(b"\n".join(damaged) + b"\n")
        for command in (["status"], ["export", "-o", tmp_path / "best.yaml"], ["sync"], ["resume"]):
            done = medtune(command[0], found.path, *command[1:])
            assert done.returncode == 2, done.stderr
            [sentence] = [line for line in done.stderr.splitlines() if line.startswith("medtune:")]
            assert said in sentence and "restore the file from a backup" in sentence
            assert "Traceback" not in done.stderr
        assert journal.read_bytes() == b"\n".join(damaged) + b"\n"
    finally:
        journal.write_bytes(before)
    assert len(found.study().trials) == 5


def test_a_missing_journal_is_told_and_none_is_made(found: SearchFolder) -> None:
    journal = found.path / JOURNAL
    before = journal.read_bytes()
    try:
        journal.unlink()
        files = sorted(found.path.rglob("*"))
        for command in ("status", "sync"):
            done = medtune(command, found.path)
            assert done.returncode == 2 and f"{journal}: no such file" in done.stderr
        assert sorted(found.path.rglob("*")) == files
    finally:
        journal.write_bytes(before)


def test_a_line_under_way_is_no_damage(tmp_path: Path) -> None:
    Study.create(open_storage(tmp_path, None), "s", "maximize", {"format": 1})
    with (tmp_path / JOURNAL).open("ab") as file:
        file.write(b'{"op_code": 4, "wor')
    assert Study.read(existing_storage(tmp_path, None), "s").identity == {"format": 1}


@pytest.mark.parametrize("line", [b'{"test": "t", "wh', b"[]", b'{"test": "t"}', b"\xff\x00"])
def test_a_damaged_ledger(tmp_path: Path, line: bytes) -> None:
    ledger, test = Ledger(tmp_path), SealedTest("t", "i")
    for what in ("a", "b"):
        ledger.open(test, what, ("s",), 1, "because")
    first, second = (tmp_path / NAME).read_bytes().split(b"\n")[:-1]
    (tmp_path / NAME).write_bytes(b"\n".join([first, line, second]) + b"\n")
    with pytest.raises(Mistake, match=rf"{NAME}: line 2: damaged; restore the file from a backup"):
        ledger.standing(test)
    (tmp_path / NAME).write_bytes(b"\n".join([first, second, b""]))
    assert ledger.standing(test).opening == 2


def test_a_report_says_that_the_ledger_is_damaged(found: SearchFolder, tmp_path: Path) -> None:
    ledger = found.path.parent / NAME
    ledger.write_text("no JSON\n")
    try:
        done = medtune("report", found.path, "-o", tmp_path / "r.html")
        assert done.returncode == 2 and f"{ledger}: line 1: damaged" in done.stderr
        assert not (tmp_path / "r.html").exists()
    finally:
        ledger.unlink()
