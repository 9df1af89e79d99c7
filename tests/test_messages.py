"""Every sentence about a person's mistake says what to do: it names what was expected, or a next step."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
TOLD = {"Mistake", "problems.append", "sentences.append", "problems.add"}
"""Calls whose texts a person reads."""
OF_ONE_IMAGE = "images that can't be used"
"""A kind of problem of which there may be hundreds, each with its reason; their count says what to do."""
NO_WORDS = re.compile(r"[\W_]*(space|feature)?[\W_]*")
"""Passes on what was said elsewhere, or gives it a place."""
STEPS = re.compile(
    r"expected|nearest\(|\b(add|ask|assign|choose|correct|cut|delete|evaluate|export|find|free|get|give|go on|install|"
    r"keep|leave|lower|make|mend|mount|move|name|put|raise|remove|rename|restart|restore|resume|run|save|say|see|set|start|"
    r"store|take|try|undo|unpack|use|wait|write)\b",
    re.IGNORECASE,
)


def called(node: ast.Call) -> str:
    function = node.func
    if isinstance(function, ast.Name):
        return function.id
    return f"{ast.unparse(function.value)}.{function.attr}" if isinstance(function, ast.Attribute) else ""


def text(node: ast.AST) -> str:
    """What is literally there, and the calls that complete it."""
    parts = []
    for inner in ast.walk(node):
        if isinstance(inner, ast.Constant) and isinstance(inner.value, str):
            parts.append(inner.value)
        elif isinstance(inner, ast.Call) and called(inner) == "nearest":
            parts.append("nearest(")
        elif isinstance(inner, ast.Name) and inner.id == "WAYS":
            parts.append("choose")
    return " ".join(parts)


def sentences() -> Iterator[tuple[str, str]]:
    """Place and text of each sentence that is written where it is told."""
    for package in ("spaces", "trainables", "search"):
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call) and called(node) in TOLD:
                    told = node.args[1:] if called(node) == "problems.add" else node.args
                    if node.args and isinstance(node.args[0], ast.Constant) and node.args[0].value == OF_ONE_IMAGE:
                        continue
                    for argument in told:
                        whole = argument.value if isinstance(argument, ast.Starred) else argument
                        if isinstance(whole, ast.JoinedStr | ast.Constant | ast.BinOp | ast.GeneratorExp):
                            yield f"{path.relative_to(ROOT)}:{node.lineno}", text(whole)


FOUND = list(sentences())


def test_there_are_as_many_as_seen() -> None:
    assert len(FOUND) > 150


def test_every_sentence_says_what_to_do() -> None:
    lacking = [f"{place}: {said}" for place, said in FOUND if not STEPS.search(said) and not NO_WORDS.fullmatch(said)]
    assert not lacking, "\n".join(lacking)


def test_no_sentence_shouts_or_blames() -> None:
    wrong = [
        f"{place}: {said}"
        for place, said in FOUND
        if re.search(r"!|\b(invalid|illegal|error:|oops|sorry)\b", said, re.I)
    ]
    assert not wrong, "\n".join(wrong)
