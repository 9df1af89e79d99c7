"""Every example is searched at a tiny size: its own settings, with small backbones and images in the layout it names.

`make test` checks them and runs the one in Python; `make test-faults` searches all.
"""

import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from search.plan import plan
from search.settings import load
from spaces.library import assemble, first_points
from tests.search.conftest import SETTINGS, status, succeed, write_digits
from tests.trainables.data.conftest import write_image
from tests.trainables.data.readers.test_spoiled import DATASETS
from trainables.data.readers import READERS

assert write_image  # the fixture
EXAMPLES = Path(__file__).parents[1] / "examples"


def folder(root: Path) -> None:
    write_digits(root / "images", 300)


def table(root: Path) -> None:
    write_digits(root / "data", 300)
    rows = [
        f"{p.relative_to(root / 'data').as_posix()},{p.parent.name},p{int(p.stem) // 2}"
        for p in sorted((root / "data").rglob("*.png"))
    ]
    (root / "data" / "labels.csv").write_text("\n".join(["path,label,patient", *rows]) + "\n")


def fundus(root: Path) -> None:
    """Digits 0 to 4 as grades, in the competition's layout."""
    write_digits(root / "all", 300)
    home = root / "aptos2019"
    (home / "train_images").mkdir(parents=True)
    rows = ["id_code,diagnosis"]
    for path in sorted((root / "all").rglob("*.png")):
        if int(path.parent.name) < 5:
            path.rename(home / "train_images" / path.name)
            rows.append(f"{path.stem},{path.parent.name}")
    (home / "train.csv").write_text("\n".join(rows) + "\n")


TINY = (
    "backbones=[dinov2_tiny]",
    "weights=random",
    "space.resolution=56",
    "space.trained_blocks={choice: [0, 1, all]}",  # of two
    "strategy=free",  # of one backbone there is nothing to compare
    "budget={trials: 2, epochs: 4}",
    "stopping.rule=off",
    "resources={concurrent: 1}",
    "mlflow=off",
    "try=[]",
    "space.batch_size=16",
)
MAKE: dict[str, Callable[[Path], None]] = {"folder": folder, "csv": table, "aptos2019": fundus}
ELSEWHERE = {"seven_families", "kuberay"}
"""Run by a test of its own, tests/search/test_families.py; no settings of a search."""
LARGE = {"cbis_ddsm", "isic2019", "chexpert"}
"""Of large datasets, whose readers have tests of their own with tiny copies in their layouts."""


def ran_through(home: Path) -> None:
    """Both trials ended by themselves; kappa isn't defined where all are still predicted as one grade, which isn't an
    error of the trial's."""
    trials = status(home)["trials"]
    undefined = [t for t in trials if t["state"] == "infeasible" and "isn't defined" in t["cause"]]
    complete = [t for t in trials if t["state"] == "complete"]
    assert complete and len(complete) + len(undefined) == len(trials) == 2, trials


def test_every_example_is_tested() -> None:
    assert {p.stem for p in EXAMPLES.glob("*.yaml")} == set(MAKE) | ELSEWHERE | LARGE


@pytest.mark.parametrize("name", sorted(LARGE))
def test_a_large_example_has_a_space(name: str) -> None:
    config = load(EXAMPLES / f"{name}.yaml")
    assert config.dataset.reader == name in READERS
    space = assemble(config)
    assert first_points(config, space, 20_000), "something an expert would start from"
    READERS[name].options.parse(config.dataset.options, "options")


@pytest.mark.parametrize("name", sorted({*MAKE, *LARGE, "seven_families"}))
def test_it_can_be_tried_without_weights_or_accelerator(
    name: str, tmp_path: Path, write_image: Callable[..., Path]
) -> None:
    """With README's own line."""
    [line] = re.findall("^--set .*$", (EXAMPLES.parent / "README.md").read_text(), re.MULTILINE)
    changes = [word for word in shlex.split(line) if word != "--set"]
    settings = tmp_path / f"{name}.yaml"
    settings.write_text((EXAMPLES / f"{name}.yaml").read_text())
    if name in LARGE:
        good, _ = DATASETS[name]
        good(tmp_path / load(settings).dataset.root, write_image)
    else:
        MAKE.get(name, folder)(tmp_path)
    config = load(settings, [*changes, f"storage={tmp_path / 'runs'}"])
    planned = plan(config, tmp_path, decoded=False)
    assert planned.config.backbones == ("dinov2_tiny",) and not planned.config.resources.accelerators
    assert set(planned.space.offered("trained_blocks")) <= {0, 1, "all"}


@pytest.mark.parametrize("name", MAKE)
def test_example(name: str, tmp_path: Path) -> None:
    MAKE[name](tmp_path)
    settings = tmp_path / f"{name}.yaml"
    settings.write_text((EXAMPLES / f"{name}.yaml").read_text())
    load(settings)
    changes = [part for change in TINY for part in ("--set", change)]
    storage = ("--set", f"storage={tmp_path / 'runs'}")
    output = succeed("check", settings, *changes, *storage)
    assert "Everything is in order" in output


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted({*MAKE, *LARGE}))
def test_example_is_searched(name: str, tmp_path: Path, write_image: Callable[..., Path]) -> None:
    settings = tmp_path / f"{name}.yaml"
    settings.write_text((EXAMPLES / f"{name}.yaml").read_text())
    if name in LARGE:
        good, _ = DATASETS[name]
        good(tmp_path / load(settings).dataset.root, write_image)
    else:
        MAKE[name](tmp_path)
    changes = [part for change in TINY for part in ("--set", change)]
    succeed("search", settings, *changes, "--set", f"storage={tmp_path / 'runs'}")
    ran_through(tmp_path / "runs" / name)


def test_from_python(tmp_path: Path) -> None:
    folder(tmp_path)
    settings = tmp_path / "search.yaml"
    text = SETTINGS.replace("STORAGE", str(tmp_path / "runs")).replace("trials: 8, epochs: 4", "trials: 2, epochs: 2")
    settings.write_text(text + "mlflow: off\nstopping: {rule: off}\n")
    done = subprocess.run([sys.executable, EXAMPLES / "from_python.py", settings], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "balanced_accuracy" in done.stdout and (tmp_path / "runs" / "digits" / "final" / "result.json").exists()
