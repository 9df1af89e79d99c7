"""All seven families in one study, from the example's own settings to one final of their best configurations."""

import json
from collections import Counter
from pathlib import Path

import pytest

from search.folder import SearchFolder
from search.record import State
from search.settings import load
from spaces.backbone import backbone
from spaces.library import assemble, first_points
from tests.search.conftest import succeed, write_digits

EXAMPLE = Path(__file__).parents[2] / "examples" / "seven_families.yaml"
READ = {"dinov2_tiny": ", feature: cls2_mean", "sam2_tiny": ", feature: trunk"}
"""What the linear heads of some read in the study."""
FAMILIES = {"dinov2", "mae", "aimv2", "sam2", "clip", "coca", "vmamba"}


def test_the_example_tries_every_family_first() -> None:
    config = load(EXAMPLE)
    assert {backbone(name).family for name in config.backbones} == FAMILIES
    points = first_points(config, assemble(config), 5000)
    assert [point["backbone"] for point in points] == list(config.backbones)


@pytest.mark.slow
def test_seven_families_in_one_study(tmp_path: Path) -> None:
    write_digits(tmp_path / "images", 300)
    settings = tmp_path / "seven_families.yaml"
    settings.write_text(EXAMPLE.read_text())
    names = [f"{backbone(name).family}_tiny" for name in load(settings).backbones]
    changes = (
        f"backbones=[{', '.join(names)}]",
        f"try=[{', '.join(f'{{backbone: {name}{READ.get(name, str())}}}' for name in names)}]",
        "space.feature@dinov2_tiny={choice: [pooled, cls2_mean]}",
        "space.feature@sam2_tiny={choice: [pooled, trunk]}",
        "weights=random",
        "dataset.policy=digits",
        "space.batch_size=16",
        "budget={trials: 7, epochs: 1}",
        "stopping={rule: off}",
        "resources={}",
        "mlflow=off",
        f"storage={tmp_path / 'runs'}",
    )
    succeed("search", settings, *[part for change in changes for part in ("--set", change)])
    found = tmp_path / "runs" / "seven_families"
    trials = SearchFolder(found).study().trials
    assert Counter((t.point["backbone"], t.state) for t in trials) == {(name, State.COMPLETE): 1 for name in names}
    read = {t.point["backbone"]: t.point.get("feature") for t in trials}
    assert (read["dinov2_tiny"], read["sam2_tiny"], read["clip_tiny"]) == ("cls2_mean", "trunk", "pooled")

    succeed("export", found, "-o", tmp_path / "best.yaml", "--per", "backbone")
    exports = sorted(tmp_path.glob("best-*.yaml"))
    assert [p.stem for p in exports] == sorted(f"best-{name}" for name in names)

    output = succeed("final", *exports, "--seeds", "1", "-o", tmp_path / "final")
    result = json.loads((tmp_path / "final" / "result.json").read_text())
    values = {t.point["backbone"]: t.value for t in trials}
    assert {c["backbone"]: c["seeds"][0]["validation"] for c in result["configurations"]} == values
    assert all(0 <= c["test"]["value"] <= 1 for c in result["configurations"])
    [opening] = (tmp_path / "runs" / "test-openings.jsonl").read_text().splitlines()
    assert json.loads(opening)["configurations"] == 7 and "opening 1" in output
    assert len(list((tmp_path / "final").glob("model-*"))) == 7
