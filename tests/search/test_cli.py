"""The command line is a contract."""

import errno
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest

from search import commands
from search.cli import main, parser
from tests.search.conftest import medtune

CONTRACT = {
    "check": {"settings", "--set"},
    "search": {"settings", "--set", "--address", "--smoke", "--dry-run"},
    "resume": {"search", "--address", "--set", "--accept-code-change"},
    "extend": {"search", "--set", "--address"},
    "cancel": {"search", "number"},
    "ls": {"storage", "--json"},
    "diff": {"first", "second"},
    "prune": {"search", "--top", "--dry-run"},
    "status": {"search", "--json"},
    "export": {"search", "-o", "--bundle", "--top", "--per"},
    "final": {"exports", "--seeds", "--workers", "--fit", "--again", "--evaluate", "-o"},
    "report": {"search", "-o", "--images"},
    "predict": {"model", "images", "-o", "--per", "--path", "--root"},
    "sync": {"search", "--follow"},
    "ui": {"search"},
    "demo": {"-o"},
}


def test_commands_and_options() -> None:
    [commands] = [a.choices for a in parser()._actions if a.choices]
    found = {
        name: {option for action in sub._actions for option in (action.option_strings or [action.dest])}
        - {"-h", "--help"}
        for name, sub in commands.items()  # type: ignore[union-attr]
    }
    assert found == CONTRACT


def test_help_is_quick() -> None:
    """Half a second of the processor, whatever else the machine does meanwhile, in most of some runs; and half a second
    on the clock in the quickest of them, which other tests hold up the least."""

    def seconds() -> tuple[float, float]:
        started, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "search.cli", "--help"], check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        worked = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return worked, time.perf_counter() - started

    worked, waited = zip(*(seconds() for _ in range(7)), strict=True)
    for what, several in (("of the processor", worked), ("on the clock", waited)):
        print(f"medtune --help, seconds {what}:", ", ".join(f"{one:.3f}" for one in sorted(several)))
    assert statistics.median(worked) < 0.5 and min(waited) < 0.5


def test_wrong_usage_exits_with_2() -> None:
    for arguments in ([], ["serch"], ["search"], ["search", "a.yaml", "--sett", "b=c"], ["export", "x"]):
        done = medtune(*arguments)
        assert done.returncode == 2 and "usage:" in done.stderr


def test_what_the_system_refuses_is_a_sentence(tmp_path: Path) -> None:
    """The file, what the system says, what to do."""
    done = medtune("ls", tmp_path / ("s" * 300))
    assert done.returncode == 2
    assert done.stderr == f"medtune: {tmp_path / ('s' * 300)}: File name too long; choose a shorter name.\n"


@pytest.mark.parametrize(
    ("number", "todo"),
    [
        (errno.EROFS, "choose a place that can be written to"),
        (errno.EACCES, "give this user the right to"),
        (errno.EIO, "see the system's log"),
        (errno.ENOSPC, "free space"),
        (errno.ELOOP, "see to it, and try again"),
    ],
)
def test_each_error_of_a_file_has_its_sentence(
    number: int, todo: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(options: object) -> None:
        raise OSError(number, os.strerror(number), "/data/a.csv")

    monkeypatch.setattr(commands, "status", failing)
    assert main(["status", "x"]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"medtune: /data/a.csv: {os.strerror(number)}; ") and todo in said


def test_an_error_of_no_file_is_a_defect_and_shows_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(options: object) -> None:
        raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))

    monkeypatch.setattr(commands, "status", failing)
    with pytest.raises(ConnectionResetError):
        main(["status", "x"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["search", "no.yaml", "--dry-run", "3", "--address", "auto"],
            "search: --dry-run starts nothing, on no cluster either; leave --address out.",
        ),
        (
            ["final", "m", "--evaluate", "a.yaml", "--seeds", "5", "--workers", "2", "--fit", "train", "-o", "x"],
            "final: --evaluate takes models as they are, and writes beside them; leave --seeds, --workers, --fit, -o "
            "out.",
        ),
        (
            ["final", "no-model", "--evaluate", "no.yaml", "-o", "x", "--again", "why"],
            "final: --evaluate takes models as they are, and writes beside them; leave -o out.",
        ),
    ],
)
def test_options_that_dont_go_together(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Defaults that are written out, too: nothing that is typed is passed over."""
    assert main(words) == 2
    assert capsys.readouterr().err == f"medtune: {said}\n"
