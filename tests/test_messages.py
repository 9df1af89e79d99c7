"""Every sentence about a person's mistake says what to do: it names what was expected, or a next step."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TOLD = {"Mistake", "problems.append", "sentences.append", "problems.add"}
"""Calls whose texts a person reads."""
KEPT = {"problems", "sentences", "sentence"}
"""Names of what is told later."""
OF_ONE_IMAGE = "images that can't be used"
"""A kind of problem of which there may be hundreds, each with its reason; their count says what to do."""
ANYTHING = "X"
"""Stands for what is put into a text."""
PASSES_ON = re.compile(r"(\w+: )?(configuration )?X([: ]+X)*\.?")
"""Gives a place to what was said elsewhere, or nothing."""
VERBS = (
    "add|ask|assign|change|choose|copy|correct|cut|delete|evaluate|export|find|free|get|give|go on|install|keep|leave|"
    "lower|make|medtune|mend|mount|move|name|put|raise|remove|rename|restart|restore|resume|run|save|say|search|see|"
    "set|start|store|take|try|undo|unpack|use|wait|write"
)
STEPS = re.compile(
    rf'expected|nearest\(|(^|[;:,.?]\s+|\(|\b(and|or|so|then|but to)\s+)"?({VERBS})\b(?!:)', re.IGNORECASE
)
"""A verb counts where it tells somebody to do something, not as the noun that many of them are."""
NO_MISTAKES = {
    "search/check.py describe": "what medtune check tells of data that are in order",
    "search/check.py split_lines": "as above",
    "search/check.py batch_lines": "as above",
    "search/cost.py estimate_lines": "as above",
    "search/cost.py _fit_lines": "as above; where the budget is short it says what to do",
    "search/images_found.py copies_lines": "as above",
    "search/images_found.py alike_lines": "as above",
}
"""Functions that return sentences of another kind, and why."""


def called(node: ast.Call) -> str:
    function = node.func
    if isinstance(function, ast.Name):
        return function.id
    return f"{ast.unparse(function.value)}.{function.attr}" if isinstance(function, ast.Attribute) else ""


def text(node: ast.AST) -> str:
    """What is literally there, in its order; of alternatives all. What only the running program knows is `ANYTHING`."""
    match node:
        case ast.Constant(value=str(said)):
            return said
        case ast.JoinedStr(values=parts) | ast.BoolOp(values=parts):
            return "".join(map(text, parts))
        case ast.FormattedValue(value=value):
            return text(value)
        case ast.BinOp(left=left, right=right):
            return (text(left) + text(right)).replace(ANYTHING * 2, ANYTHING)
        case ast.IfExp(body=body, orelse=orelse):
            return f"{text(body)}; {text(orelse)}"
        case ast.Call() if called(node) == "nearest":
            return "nearest("
        case ast.Name(id="WAYS"):
            return "choose"
    return ANYTHING


def literal(node: ast.AST) -> Iterator[ast.AST]:
    """The texts that are written in an expression: itself, or the entries of a list, of every alternative."""
    match node:
        case ast.JoinedStr() | ast.Constant(value=str()):
            yield node
        case ast.List(elts=parts) | ast.Tuple(elts=parts):
            for part in parts:
                yield from literal(part)
        case ast.ListComp(elt=part) | ast.GeneratorExp(elt=part) | ast.Starred(value=part):
            yield from literal(part)
        case ast.IfExp(body=one, orelse=other):
            yield from literal(one)
            yield from literal(other)
        case ast.BinOp(left=one, right=other):
            if any(isinstance(side, ast.List | ast.ListComp) for side in (one, other)):
                yield from literal(one)
                yield from literal(other)
            else:
                yield node


def told(node: ast.AST) -> Iterator[ast.AST]:
    """The expressions of a statement or a call that a person is told, now or later."""
    match node:
        case ast.Call(args=arguments) if called(node) in TOLD:
            if called(node) != "problems.add":
                yield from arguments
            elif text(arguments[0]) != OF_ONE_IMAGE:
                yield from arguments[1:]
        case ast.Assign(targets=[ast.Name(id=name)], value=value) if name in KEPT:
            yield value
        case ast.AnnAssign(target=ast.Name(id=name), value=ast.AST() as value) if name in KEPT:
            yield value
        case ast.AugAssign(target=ast.Name(id=name), value=value) if name in KEPT:
            yield value


def sentences(source: str, place: str) -> Iterator[tuple[str, str]]:
    """Place and text of each sentence of a module that is written where it is told, or in a list that is returned."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        for expression in told(node):
            line = getattr(node, "lineno", 0)
            yield from ((f"{place}:{line}", text(one)) for one in literal(expression))
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef) and f"{place} {function.name}" not in NO_MISTAKES:
            yield from ((f"{place}:{function.lineno}", said) for said in returned(function))


def returned(function: ast.FunctionDef) -> list[str]:
    """The sentences in the lists that a function returns."""
    lists = [node.value for node in ast.walk(function) if isinstance(node, ast.Return)]
    texts = [text(one) for found in lists if isinstance(found, ast.List | ast.ListComp) for one in literal(found)]
    return [said for said in texts if said.endswith(".") and " " in said]


def parsed() -> Iterator[tuple[str, str]]:
    for package in ("spaces", "trainables", "search"):
        for path in sorted((ROOT / package).rglob("*.py")):
            yield path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")


FOUND = [found for place, source in parsed() for found in sentences(source, place)]


def says_what_to_do(said: str) -> bool:
    return bool(STEPS.search(re.sub(r"--[\w-]+", "", said))) or bool(PASSES_ON.fullmatch(said))


def test_there_are_as_many_as_seen() -> None:
    assert len(FOUND) > 220


def test_every_sentence_says_what_to_do() -> None:
    lacking = [f"{place}: {said}" for place, said in FOUND if not says_what_to_do(said)]
    assert not lacking, "\n".join(lacking)


@pytest.mark.parametrize(
    "source",
    [
        """raise Mistake(f'--set {change}: "{parent}" holds a value, not further keys.')""",
        """raise Mistake(*(f"--set: {difference}; a continued search may not change it." for difference in changed))""",
        """raise Mistake("the test set was opened in this run; its name is the use of the set.")""",
        """problems += [f"extend: {text}; {reason}." for text in outside]""",
        """problems: list[str] = ["a"] if it else [f"{where}: no answer."]""",
        """sentence = f"{where}: stands there " + "twice." """,
        """problems.append("export: no complete trial yet" if none else "export: no trial.")""",
        """def check():\n    return [f"{name}: is in no split." for name in names]""",
    ],
)
def test_what_says_nothing_to_do_is_found(source: str) -> None:
    found = [said for _, said in sentences(source, "a.py")]
    assert found and not any(map(says_what_to_do, found))


@pytest.mark.parametrize(
    "source",
    [
        """raise Mistake(f"{place}: {error}.")""",
        """raise Mistake(f"{path}: no such file.{nearest(path.name, names)}")""",
        """problems.add("empty paths", f"{where}: {column} is empty, expected an image's path.")""",
        """problems += [f"export: {name} isn't there; {'wait' if driven else 'resume it'}." for name in names]""",
        """def check():\n    return [f"{name}: is in no split. Put it into one, or run {command}."]""",
    ],
)
def test_what_says_what_to_do_is_left_alone(source: str) -> None:
    found = [said for _, said in sentences(source, "a.py")]
    assert found and all(map(says_what_to_do, found))


def test_functions_that_are_left_out_are_there() -> None:
    found = {
        f"{place} {function.name}"
        for place, source in parsed()
        for function in ast.walk(ast.parse(source))
        if isinstance(function, ast.FunctionDef) and returned(function)
    }
    assert set(NO_MISTAKES) <= found


def test_no_sentence_shouts_or_blames() -> None:
    wrong = [
        f"{place}: {said}"
        for place, said in FOUND
        if re.search(r"!|\b(invalid|illegal|error:|oops|sorry)\b", said, re.I)
    ]
    assert not wrong, "\n".join(wrong)
