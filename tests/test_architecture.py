"""Imports go one way: search -> trainables -> spaces; heavy ones stay where they belong."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FORBIDDEN = {
    "spaces": {"search", "trainables", "torch", "ray", "optuna", "mlflow", "numpy", "pandas"},
    "trainables": {"search", "optuna", "mlflow"},
    "search": set(),
}


def imported(file: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize("package", FORBIDDEN)
def test_one_direction(package: str) -> None:
    files = list((ROOT / package).rglob("*.py"))
    assert files
    wrong = {str(f.relative_to(ROOT)): imported(f) & FORBIDDEN[package] for f in files}
    assert not {f: names for f, names in wrong.items() if names}


def test_only_the_job_knows_ray() -> None:
    users = {f.name for f in (ROOT / "trainables").rglob("*.py") if "ray" in imported(f)}
    assert users == {"job.py"}


TORCHES = ("torch", "ray", "mlflow", "pandas", "sklearn", "scipy")


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("search.cli", ("numpy", "optuna", *TORCHES)),
        ("spaces.library", ("numpy", "optuna", *TORCHES)),
        ("search.commands, search.status", TORCHES),
        ("search.launch, search.scheduler, trainables.job", ("torch", "timm", "sklearn", "scipy.stats", "mlflow")),
    ],
)
def test_light_imports(module: str, heavy: tuple[str, ...]) -> None:
    """Help is there at once, and looking at a search soon; a driver doesn't wait for what only training needs."""
    code = f"import sys, {module}; print([m for m in {heavy} if m in sys.modules])"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )


def test_no_address_of_an_index_or_path_of_a_machine() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout.split(b"\0")
    for name in filter(None, listed):
        data = (ROOT / name.decode()).read_bytes() if (ROOT / name.decode()).is_file() else b""
        for word in (b"/wor" + b"k/main", b"pypi" + b".org", b"file" + b"s.pythonhosted", b"--index" + b"-url http"):
            assert word not in data, (name, word)
