"""The command line is a contract."""

import subprocess
import sys
import time

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
    """Ten times at most what the interpreter itself takes; half a second on an idle machine."""

    def seconds(*command: str) -> float:
        times = []
        for _ in range(5):
            started = time.perf_counter()
            subprocess.run([sys.executable, *command], check=True, capture_output=True)
            times.append(time.perf_counter() - started)
        return min(times)

    assert seconds("-m", "search.cli", "--help") < 10 * seconds("-c", "pass")


def test_wrong_usage_exits_with_2() -> None:
    for arguments in ([], ["serch"], ["search"], ["search", "a.yaml", "--sett", "b=c"], ["export", "x"]):
        done = medtune(*arguments)
        assert done.returncode == 2 and "usage:" in done.stderr
