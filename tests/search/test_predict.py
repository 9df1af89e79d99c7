"""`medtune predict`: from a final's folders and any kind of images to a table."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from search.folder import SearchFolder
from search.predict import predict, split_models
from spaces.mistakes import Mistake
from tests.search.conftest import medtune, succeed, write_digits
from tests.search.finals import final_of, search_of
from trainables.calibration import tempered
from trainables.card import ENSEMBLE, MODEL, read_card

SEARCH: dict[str, Any] = {
    "name": "digits",
    "backbones": ["dinov2_tiny"],
    "metric": "balanced_accuracy",
    "classes_averaged": None,
    "comparison": {},
    "strategy": "free",
}


@pytest.fixture(scope="module")
def final(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of two seeds, on 200 digits in the folder `images` two above."""
    home = tmp_path_factory.mktemp("final")
    write_digits(home / "images", 200)
    return final_of(search_of(home, **SEARCH))


@pytest.fixture(scope="module")
def images(final: Path) -> Path:
    return final.parents[2] / "images"


@pytest.fixture(scope="module")
def model(final: Path) -> Path:
    return next(final.glob("model-*"))


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def raw(rows: list[dict[str, str]], prefix: str = "p_") -> np.ndarray:
    return np.array([[float(row[f"{prefix}{c}"]) for c in range(10)] for row in rows])


def test_the_final_and_predict_agree(final: Path, images: Path, model: Path, tmp_path: Path) -> None:
    """The shipped model and the ensemble, on the test's images, in the order of its rows."""
    [report] = json.loads((final / "result.json").read_text())["configurations"]
    kept = np.load(final / f"{report['name']}-test.npz")["probabilities"]
    used = {Path(p).name for p in SearchFolder(final.parent).prepared().manifest.paths}
    unseen = sorted(p for p in images.rglob("*.png") if p.name not in used)
    assert len(unseen) == kept.shape[1]
    own = [seed["seed"] for seed in report["seeds"]].index(report["shipped"]["seed"])
    for folder, expected in ((model, kept[own]), (next(final.glob("ensemble-*")), kept.mean(axis=0))):
        succeed("predict", folder, *unseen, "-o", tmp_path / "p.csv")
        rows = table(tmp_path / "p.csv")
        assert np.abs(raw(rows) - expected).max() < 1e-6
        assert [row["image"] for row in rows] == [str(p) for p in unseen]
        card = read_card(folder, (MODEL, ENSEMBLE))
        assert raw(rows, "calibrated_") == pytest.approx(
            tempered(raw(rows), card["temperature"], several=False), abs=1e-6
        )
        points = {p["name"]: p for p in card["operating_points"] if p.get("threshold")}
        assert points
        for name, point in points.items():
            found = [row[f"positive_{name}"] for row in rows]
            assert found == [str(int(float(row[f"p_{name}"]) >= point["threshold"])) for row in rows]
    assert report["ensemble"]["test"]["value"] is not None
    assert report["ensemble"]["calibration"]["temperature"] == card["temperature"]


def test_several_models_give_their_mean(final: Path, images: Path, model: Path, tmp_path: Path) -> None:
    seeds = sorted((final / "runs").glob("*/model"))
    output = succeed("predict", *seeds, images / "3", "-o", tmp_path / "both.csv")
    assert "the mean of 2 models; " in output and "not calibrated" in output and "no thresholds" in output
    succeed("predict", next(final.glob("ensemble-*")), images / "3", "-o", tmp_path / "ensemble.csv")
    both, ensemble = table(tmp_path / "both.csv"), table(tmp_path / "ensemble.csv")
    assert np.abs(raw(both) - raw(ensemble)).max() < 1e-6
    assert not any(name.startswith("calibrated_") for name in both[0])


def test_a_table_of_images_and_its_studies(images: Path, model: Path, tmp_path: Path) -> None:
    chosen = sorted(p.relative_to(images) for p in images.rglob("*.png"))[:7]
    studies = ["b", "a", "b", "c", "a", "b", "c"]
    listed = tmp_path / "listed.csv"
    with listed.open("w", newline="") as file:
        csv.writer(file).writerows([["file", "study"], *zip(chosen, studies, strict=True)])
    options = ("--path", "file", "--root", images)
    succeed("predict", model, listed, *options, "-o", tmp_path / "images.csv")
    rows = table(tmp_path / "images.csv")
    assert [row["image"] for row in rows] == [str(p) for p in chosen]
    output = succeed("predict", model, listed, *options, "--per", "study", "-o", tmp_path / "studies.csv")
    assert "probabilities of 3 by study" in output
    found = table(tmp_path / "studies.csv")
    assert [(row["study"], row["images"]) for row in found] == [("b", "3"), ("a", "2"), ("c", "2")]
    for row, mean in zip(raw(found), ("b", "a", "c"), strict=True):
        of_study = raw(rows)[np.array(studies) == mean]
        assert row == pytest.approx(of_study.mean(axis=0), abs=1e-6)


def test_by_folder(images: Path, model: Path, tmp_path: Path) -> None:
    succeed("predict", model, images / "3", images / "5", "--per", "folder", "-o", tmp_path / "p.csv")
    rows = table(tmp_path / "p.csv")
    assert [row["folder"] for row in rows] == [str(images / "3"), str(images / "5")]
    assert [int(row["images"]) for row in rows] == [len(list((images / d).iterdir())) for d in "35"]


def test_mistakes_are_told_together(images: Path, model: Path, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("path,study\n../secret.png,x\n3/none.png,\n,y\n")
    (tmp_path / "b.csv").write_text("image\n3/0003.png\n")
    (tmp_path / "empty").mkdir()
    sources = [tmp_path / name for name in ("a.csv", "b.csv", "empty", "gone.png")]
    with pytest.raises(Mistake) as caught:
        predict([model], sources, tmp_path / "p.csv")
    said = "\n".join(caught.value.sentences)
    assert "dataset" not in said
    for part in (
        f'a.csv row 2: "../secret.png" leaves {tmp_path}; expected a path inside it',
        f'a.csv row 3: "3/none.png" no such file under {tmp_path} (--root names another folder).',
        "a.csv row 4: path is empty",
        'b.csv: column "path" is missing',
        "empty: holds no images",
        "gone.png: no such file or folder",
    ):
        assert part in said, said
    with pytest.raises(Mistake, match=r"--per study: .* is no table"):
        predict([model], [images / "3"], tmp_path / "p.csv", per="study")
    with pytest.raises(Mistake, match='column "stydy" is missing. Did you mean "study"'):
        predict([model], [tmp_path / "a.csv"], tmp_path / "p.csv", per="stydy")
    with pytest.raises(Mistake, match="row 3: study is empty"):
        (tmp_path / "3").mkdir()
        (tmp_path / "3" / "none.png").touch()
        predict([model], [tmp_path / "a.csv"], tmp_path / "p.csv", per="study")
    with pytest.raises(Mistake, match='--per images: .*"images" is what'):
        predict([model], [images / "3"], tmp_path / "p.csv", per="images")
    with pytest.raises(Mistake, match="--root .*gone: no such folder; give the one that paths in tables"):
        predict([model], [tmp_path / "a.csv"], tmp_path / "p.csv", root=tmp_path / "gone")
    assert not (tmp_path / "p.csv").exists()


def test_folders_are_named_as_they_were_given(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tables" / "pictures").mkdir(parents=True)
    (tmp_path / "tables" / "a.csv").write_text("path\nx.png\n")
    monkeypatch.chdir(tmp_path)
    for words, named in (
        (("tables/a.csv", None), "tables"),
        (("tables/a.csv", Path("tables/pictures")), "tables/pictures"),
        (("a.csv", None), str(tmp_path / "tables")),
    ):
        monkeypatch.chdir(tmp_path / "tables" if words[0] == "a.csv" else tmp_path)
        with pytest.raises(Mistake, match=rf'row 2: "x.png" no such file under {named} \('):
            predict([model], [Path(words[0])], tmp_path / "p.csv", root=words[1])


def test_model_folders_alone_are_no_images(model: Path) -> None:
    with pytest.raises(Mistake, match="only model folders"):
        split_models([model, model])
    done = medtune("predict", model, model, "-o", "p.csv")
    assert done.returncode == 2 and "only model folders" in done.stderr
