"""Names of timm's models, which have a `/`, are told wherever a search's backbones are; paths of files never."""

import csv
import re
import sqlite3
from contextlib import closing
from html import unescape
from pathlib import Path

import pytest

from search.disclosure import public_backbone, public_parameter
from search.folder import SearchFolder
from search.mirror import Mirror
from search.registry import FinalModel
from search.report import report
from search.shown_settings import shown_settings
from search.tracking import local_uri, search_facts
from spaces.config import SearchConfig
from spaces.strict import parse_yaml
from tests.search.conftest import write_digits
from tests.search.finals import SETTINGS, search_of

NAMES = ["dinov2_tiny", "timm/test_vit.r160_in1k", "timm/test_convnext.r160_in1k"]
PATHS = [
    "/data/vit.pth",
    "weights/vit.pth",
    "timm/me/vit.pth",
    "timm/../vit.pth",
    "../timm/vit",
    "~/timm",
    "C:\\timm\\vit",
]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> SearchFolder:
    """A search with a complete trial of each of three backbones, two of them timm's."""
    home = tmp_path_factory.mktemp("names")
    write_digits(home / "images", 200)
    first = [{"backbone": name} for name in NAMES]
    return search_of(home, backbones=NAMES, budget={"trials": 3, "epochs": 2}, **{"try": first})


def test_in_mlflow(found: SearchFolder) -> None:
    storage = found.path.parent
    Mirror(local_uri(storage), search_facts(found.path)).update(found.study().trials, driven=False)
    with closing(sqlite3.connect(storage / "mlflow.db")) as store:
        params = {value for (value,) in store.execute("select value from params where key = 'backbone'")}
        tags = {value for (value,) in store.execute("select value from tags where key = 'medtune.backbone'")}
        (backbones,) = store.execute("select value from tags where key = 'medtune.backbones'").fetchone()
        (note,) = store.execute("select value from tags where key = 'mlflow.note.content' and value like '%Best%'")
    assert params == tags == set(NAMES) and backbones == ", ".join(NAMES)
    assert f"backbone {NAMES[0]}" in note[0] and "withheld" not in note[0]


def test_in_every_kind_of_report(found: SearchFolder, tmp_path: Path) -> None:
    rows = csv.DictReader(report([found], tmp_path / "r.csv").open(encoding="utf-8"))
    assert [row["backbone"] for row in rows] == NAMES
    html = report([found], tmp_path / "r.html").read_text(encoding="utf-8")
    assert str(found.path.parent.parent) not in html
    for settings in (
        unescape(html[html.rindex("<pre>") + 5 : html.rindex("</pre>")]),
        re.findall("```yaml\n(.*?)```", report([found], tmp_path / "r.md").read_text(encoding="utf-8"), re.DOTALL)[0],
    ):
        told = parse_yaml(settings, "report")
        assert told["backbones"] == NAMES and [point["backbone"] for point in told["try"]] == NAMES
        told |= {"dataset": {"reader": "folder", "root": "images"}, "storage": "runs"}
        for absent in ("checkpoints", "study"):
            told.pop(absent)
        assert SearchConfig.parse(told, "report").backbones == tuple(NAMES), "to be run"


def test_of_a_registered_model(tmp_path: Path) -> None:
    model = FinalModel(tmp_path, {"config": {"backbone": NAMES[1], "weights": "/data/vit.pth", "head_lr": 0.1}})
    assert model.params() == {"backbone": NAMES[1], "weights": "withheld", "head_lr": "0.1"}


@pytest.mark.parametrize("path", PATHS)
def test_a_path_is_withheld(path: str) -> None:
    assert public_backbone(path) == public_parameter("backbone", path) == "withheld"
    assert public_parameter("weights", NAMES[1]) == "withheld", "of backbones alone it is known what a / means"


def test_files_of_weights_are_withheld_beside_names() -> None:
    weights = {name: f"/data/{number}/vit.pth" for number, name in enumerate(NAMES)}
    shown = shown_settings(SearchConfig.parse({**SETTINGS, "backbones": [*NAMES, "/data/x"], "weights": weights}, "t"))
    assert shown["backbones"] == [*NAMES, ".../x"] and set(shown["weights"]) == set(NAMES)
    assert "/data" not in str(shown) and "vit.pth" not in str(shown)
