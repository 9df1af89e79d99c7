"""The command line is a contract."""

import resource
import statistics
import subprocess
import sys

from search.cli import parser
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
    """Half a second of the processor, whatever else the machine does meanwhile."""

    def seconds() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "search.cli", "--help"], check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert statistics.median(seconds() for _ in range(5)) < 0.5


def test_wrong_usage_exits_with_2() -> None:
    for arguments in ([], ["serch"], ["search"], ["search", "a.yaml", "--sett", "b=c"], ["export", "x"]):
        done = medtune(*arguments)
        assert done.returncode == 2 and "usage:" in done.stderr
