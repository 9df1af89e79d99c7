"""Whether the programs that the docs name take the words that stand there. Nothing is run: the parsers of medtune, of
MLflow and of Ray are asked; those of scripts, which take seconds to import, are put together from their source."""

from __future__ import annotations

import argparse
import ast
import re
import shlex
from collections.abc import Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

import click

from search.cli import parser

ROOT = Path(__file__).parents[1]
PLACEHOLDERS = {"NUMBER": "7", "N": "5", "K": "3"}
UNCHECKED = {
    "aws": "isn't installed here, and needs an account",
    "curl": "the system's; typed by tests/test_walkthrough.py and tests/test_pages_typed.py",
    "export": "the shell's",
    "git": "the system's",
    "psql": "the system's; its statements are those of tests/faults/postgres.py",
    "sbatch": "SLURM's; tests/test_slurm.py runs the script that it is given",
    "source": "the shell's",
    "ssh": "the system's",
    "touch": "the system's",
    "uv": "the Makefile's, which makes the environment with it",
}
"""Programs whose words aren't looked at, and why."""
CHECKED = ("medtune", "make", "python", ".venv/bin/python", "pytest", "mlflow", "ray", "optuna-dashboard", "timeout")
ASSIGNMENTS = r"(?:[A-Z_]+=\S+ )*"
PROGRAM = re.compile(rf"{ASSIGNMENTS}({'|'.join(map(re.escape, (*CHECKED, *UNCHECKED)))}) ")
TYPES = {"int": int, "float": float}
TOLD = ("nargs", "action", "choices", "dest", "required")
"""Of an option in a source, what says which words it takes."""
PYTEST = {"-m", "-s", "-k", "-n"}


def check(line: str) -> None:
    """That a line of a shell can be typed, as far as its programs are known here.

    Raises:
        AssertionError: a program or a command that isn't there, or words that it doesn't take.
    """
    words = shlex.split(line, comments=True)
    part: list[str] = []
    for word in [*words, "&&"]:
        if word in ("&&", "||"):
            takes(part)
            part = []
        else:
            part.append(word)


def takes(words: list[str]) -> None:
    """One program's words. Raises AssertionError where it doesn't take them."""
    while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
        words = words[1:]
    program, *rest = words
    for word in rest:
        if word.startswith(("tests/", "benchmarks/", "examples/")):
            assert (ROOT / word.partition("::")[0]).exists(), f"there is no {word}"
    match program:
        case "medtune":
            medtune_takes([PLACEHOLDERS.get(word, word) for word in rest])
        case "make":
            make_takes(rest)
        case "python" | ".venv/bin/python":
            python_takes(rest)
        case "pytest":
            pytest_takes(rest)
        case "mlflow":
            from mlflow.cli import cli as mlflow

            click_takes(mlflow, rest)
        case "ray":
            from ray.scripts.scripts import cli as ray

            click_takes(ray, rest)
            if "--" in rest:  # what is sent to the cluster
                takes(rest[rest.index("--") + 1 :])
        case "optuna-dashboard":
            found = find_spec("optuna_dashboard")
            assert found is not None and found.submodule_search_locations
            parser_of(Path(found.submodule_search_locations[0]) / "_cli.py").parse_args(rest)
        case "timeout":
            assert rest[:2] == ["-s", "KILL"] and rest[2].isdigit()
            takes(rest[3:])
        case _:
            assert program in {*UNCHECKED, "true", "chmod"}, f"{program}: neither checked nor listed as unchecked"


def medtune_takes(words: list[str]) -> None:
    """Within a sentence a command may stand without what it works on."""
    if words == ["--help"]:
        return
    top = parser()
    [chosen] = [a for a in top._actions if isinstance(a, argparse._SubParsersAction)]
    assert words[0] in chosen.choices, f"there is no command {words[0]}"
    sub = chosen.choices[words[0]]
    known = {option for action in sub._actions for option in action.option_strings}
    unknown = {word for word in words if re.match(r"--?\w", word)} - known
    assert not unknown, f"medtune {words[0]} has no {unknown}"
    needed = [a for a in sub._actions if not a.option_strings]
    positional = [word for word in words[1:] if not word.startswith("-")]
    if len(positional) >= len(needed):
        top.parse_args(words)


def make_takes(words: list[str]) -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    asked = {word for word in words if "=" not in word}
    assert asked <= targets, f"Makefile has no {asked - targets}"


def python_takes(words: list[str]) -> None:
    if words[0] == "-c":
        ast.parse(words[1])
        return
    assert words[0] == "-m", f"python {words[0]}: no module"
    module, *rest = words[1:]
    if module == "pytest":
        pytest_takes(rest)
    elif module == "search.cli":
        if rest:
            medtune_takes(rest)
    else:
        parser_of(source_of(module)).parse_args(rest)


def source_of(module: str) -> Path:
    """The file that `python -m` runs."""
    place = ROOT / module.replace(".", "/")
    source = place / "__main__.py" if place.is_dir() else place.with_suffix(".py")
    assert source.is_file(), f"there is no module {module} to be run"
    return source


def pytest_takes(words: list[str]) -> None:
    unknown = {word for word in words if word.startswith("-")} - PYTEST
    assert not unknown, f"pytest: {unknown}: not among those that are known here"


class Refusing(argparse.ArgumentParser):
    """Fails a test in place of ending it."""

    def error(self, message: str) -> NoReturn:
        raise AssertionError(f"{self.prog}: {message}")


def parser_of(source: Path) -> Refusing:
    """The parser that a script makes. Choices that only the running script knows take any word."""
    found = Refusing(prog=source.stem, allow_abbrev=False)
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "add_argument":
            names = [one.value for one in node.args if isinstance(one, ast.Constant)]
            found.add_argument(*names, **dict(told(node)))
    return found


def told(option: ast.Call) -> Iterator[tuple[str, Any]]:
    for keyword in option.keywords:
        if keyword.arg == "type" and ast.unparse(keyword.value) in TYPES:
            yield "type", TYPES[ast.unparse(keyword.value)]
        elif keyword.arg in TOLD:
            with suppress(ValueError):
                yield keyword.arg, ast.literal_eval(keyword.value)


def click_takes(command: click.Command, words: list[str]) -> None:
    context = click.Context(command)
    while isinstance(command, click.Group) and words:
        inner = command.get_command(context, words[0])
        assert inner is not None, f"{context.command_path} {command.name} has no command {words[0]}"
        command, words = inner, words[1:]
        context = click.Context(command)
    try:
        command.make_parser(context).parse_args(list(words))
    except click.UsageError as error:
        raise AssertionError(f"{command.name}: {error.format_message()}") from None
