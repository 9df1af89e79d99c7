"""The report: what is promised is on the page, nothing that may not leave the machine is, and no number is made up."""

import csv
import json
import math
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch

from search import folder as folders
from search.export import export
from search.figures import styles
from search.final import final
from search.final_result import finals
from search.folder import SearchFolder
from search.identity import identity
from search.leaderboard import leaderboard
from search.plan import Plan, plan
from search.record import Epoch, State
from search.report import report
from search.sampler import Sampler
from search.shown_settings import shown_settings
from search.study import Study, open_storage
from search.trial_text import value_interval, value_text
from spaces.config import ResourcesConfig, SearchConfig
from spaces.dimensions import Point
from spaces.mistakes import Mistake
from tests.search.conftest import write_digits
from trainables.metrics import compute
from trainables.trial_files import END, trial_folder

SETTINGS = {
    "name": "found",
    "dataset": {"reader": "folder", "root": "secret-folder", "policy": "digits"},
    "backbones": ["dinov2_tiny", "mae_tiny"],
    "weights": "random",
    "space": {"batch_size": 32, "head": "linear", "head_lr": {"float": [1e-4, 1e-1], "log": True}},
    "try": [{"backbone": "mae_tiny", "trained_blocks": 0, "head_lr": 5e-3}],
    "budget": {"trials": 30, "epochs": 4},
    "mlflow": "off",
}
CAUSES = ["RuntimeError: can't read /data/patient-17/scan.png", "out of the accelerator's memory: CUDA says no"]


class Page(HTMLParser):
    """Text of an HTML page, and the problems that a parser of well-formed pages would have with it."""

    VOID = frozenset({"meta", "br", "img"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.words: list[str] = []
        self.problems: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.feed(html)
        self.close()
        self.problems += [f"<{tag}> is never closed" for tag in self.open]
        self.text = re.sub(r"\s+", " ", "".join(self.words))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.problems.append(f"</{tag}> at {self.getpos()}")
        if tag in ("td", "th", "strong", "text"):
            self.words.append(" ")

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words.append(data)


def quality(point: Point) -> float:
    """A made-up truth: only head_lr decides much."""
    return 0.85 - 0.15 * abs(math.log10(float(point["head_lr"])) + 2.3) + 0.01 * (point["backbone"] == "mae_tiny")


def fill(study: Study, planned: Plan, count: int) -> None:
    """A record as a search would leave it: most trials complete, some stopped early, two failed, one unfinished."""
    sampler = Sampler(planned.space, planned.direction, 0, "random", [])
    random = np.random.default_rng(0)
    for number in range(count):
        if number < len(planned.first):
            point, why = planned.first[number], "first configurations"
        else:
            point, why = sampler.ask(number), "tpe"
        keyed, distributions = planned.space.keyed(point), sampler.distributions(point)
        study.add(point, keyed, distributions, seed=number, job=f"job-{number:05d}", why=why)
        ends = {3: (0, State.FAILED, CAUSES[0]), 5: (1, State.INFEASIBLE, CAUSES[1]), count - 1: (2, None, "")}
        epochs, state, cause = ends.get(number, (4, State.COMPLETE, ""))
        if state is State.COMPLETE and number % 4 == 2:
            epochs, state, cause = 1, State.PRUNED, "after epoch 1 its score was 0.3000"
        values = [quality(point) * (1 - 0.6**e) + random.normal(0, 0.01) for e in range(2, epochs + 2)]
        for e, value in enumerate(values, 1):
            time = study.trials[number].started + e
            defined = not (e == 1 and number in (6, 7))
            shown, error = (value, 0.02) if defined else (None, None)
            study.epoch(number, Epoch(e, shown, error, 1.0 / e, {"accuracy": value, "log_loss": 0.5}, 1.0, time))
        if state is not None:
            study.end(number, state, cause, values[-1] if state is State.COMPLETE else None)


def make(folder: Path, trials: int, **changes: object) -> SearchFolder:
    """A search on the digits of `folder`, as `search` would make it but for the trials' values."""
    config = SearchConfig.parse({**SETTINGS, "storage": str(folder / "runs"), **changes}, "test")
    planned = plan(config, folder)
    found = folders.create(planned, identity(planned))
    fill(Study.open(open_storage(found.path, config.study), config.name), planned, trials)
    return found


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    write_digits(folder / "secret-folder", 300)
    return folder


@pytest.fixture(scope="module")
def found(data: Path) -> SearchFolder:
    """A search with thirty trials, and a final of two configurations with two seeds each."""
    torch.set_num_threads(2)
    found = make(data, 30)
    exports = [path for path, _ in export(found, data / "best.yaml", per="backbone")]
    final(exports, seeds=2)
    return found


@pytest.fixture(scope="module")
def html(found: SearchFolder, data: Path) -> str:
    return report([found], data / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


def test_well_formed_and_alone(html: str, page: Page) -> None:
    assert page.problems == []
    assert "<script" not in html and "url(http" not in html and "@import" not in html
    outside = [a for a in page.attributes if a[1] in ("src", "href", "xlink:href") and not a[2].startswith("#")]
    assert outside == []
    assert "default-src 'none'" in html


def test_nothing_that_may_not_leave(html: str, data: Path, found: SearchFolder) -> None:
    for path in (str(data), str(found.path), "/data/", "patient-17", ".png", "/tmp", str(Path.home()) + "/"):
        assert path not in html
    assert found.prepared().manifest.paths[0] not in html


def test_what_happened_is_on_the_page(page: Page, found: SearchFolder) -> None:
    study = found.study()
    best = max((t for t in study.trials if t.value is not None), key=lambda t: t.value or 0)
    for text in (
        "The weights of dinov2_tiny, mae_tiny were RANDOM.",
        f"Trial {best.number} (",
        value_text(best, "balanced_accuracy", 4),
        "30 of 30",
        "1 unfinished",
        "RuntimeError",
        "out of the accelerator's memory: ...",
        "after epoch 1 its score was 0.3000",
        study.identity["split"],
        study.identity["data"],
        "torch " + study.identity["versions"]["torch"],
        "root: withheld",
        "data " + study.identity["data"][:8],
        "The best of 20 complete trials is too good on average",
        "as much as 1.9 standard errors (0.0373 here)",
    ):
        assert text in page.text, text
    row = page.text[page.text.rindex(" 6 pruned ") :]
    assert row[: row.index(" 7 complete ")].endswith(" 1 not defined 1 s")  # its only epoch has no value
    for part in ("train", "validation", "test"):
        assert str(sum(study.identity["counts"][part].values())) in page.text


def test_the_final_is_on_the_page(page: Page, found: SearchFolder) -> None:
    (made,) = finals(found.path)
    assert [c.report["backbone"] for c in made.configurations] == ["dinov2_tiny", "mae_tiny"]
    for configuration in made.configurations:
        expected = configuration.report["test"]
        interval = f"{expected['value']:.4f} [{expected['low']:.4f}, {expected['high']:.4f}]"
        assert interval in page.text
        assert f"{expected['sd_groups']:.4f} {expected['sd_seeds']:.4f} {expected['dof']:.1f}" in page.text
        for run in configuration.report["seeds"]:
            assert f"{run['validation']:.4f}" in page.text and f"{run['test']['accuracy']:.4f}" in page.text
    assert (
        "opening 1 of this test set" in page.text
        and "was opened 1 time under this storage, by 1 search, for 2 configurations" in page.text
    )
    for configuration in made.configurations:
        again = configuration.report["reseeded"]
        assert f"{again['value']:.4f} (1 other seed)" in page.text, "the value without the seed's luck"
    assert "No (c) for" in page.text, "nothing was predicted in a record that was made up"
    assert "Learned from the training part." in page.text
    assert "ships: the best seed on validation." in page.text


def test_whether_probabilities_mean_what_they_say_is_drawn(html: str, page: Page, found: SearchFolder) -> None:
    """In the bins of the error that stands above it, which the picture's points therefore give again."""
    (made,) = finals(found.path)
    for c in made.configurations:
        assert c.as_they_are is not None
        gaps = np.abs(c.as_they_are.confidence - c.as_they_are.share)
        with np.load(found.path / made.folder / f"{c.report['name']}-test.npz") as kept:
            seeds = [run["seed"] for run in c.report["seeds"]]
            shipped = kept["probabilities"][seeds.index(c.report["shipped"]["seed"])]
            error = compute("ece", kept["labels"], shipped, shipped.shape[1])
        assert np.average(gaps, weights=c.as_they_are.rows) == pytest.approx(error, abs=1e-12)
        assert (c.calibrated is not None) == bool(c.report["calibration"])
    assert html.count("How often what is predicted is so") == len(made.configurations)
    assert "probabilities mean what they say" in page.text


def test_results_by_class_are_those_of_the_shipped_seed(found: SearchFolder) -> None:
    for configuration in finals(found.path)[0].configurations:
        shipped = configuration.report["shipped"]
        run = next(r for r in configuration.report["seeds"] if r["seed"] == shipped["seed"])
        assert configuration.confusion is not None
        counts = found.study().identity["counts"]["test"]
        assert {c.name: c.images for c in configuration.classes} == counts
        accuracy = np.trace(configuration.confusion) / configuration.confusion.sum()
        assert accuracy == pytest.approx(run["test"]["accuracy"])
        recalls = [c.recall for c in configuration.classes if c.recall is not None]
        assert np.mean(recalls) == pytest.approx(shipped["test"]["value"])
        over = [c.over_seeds for c in configuration.classes if c.over_seeds is not None]
        assert np.mean(over) == pytest.approx(configuration.report["test"]["value"])


def test_results_by_class_have_intervals(page: Page, found: SearchFolder) -> None:
    (made,) = finals(found.path)
    shown = 0
    for configuration in made.configurations:
        for index, of_class in enumerate(configuration.classes):
            own = configuration.intervals_of_class(index)
            assert own["recall"]["value"] == pytest.approx(of_class.recall)
            for interval in own.values():
                if interval["low"] is not None:
                    shown += 1
                    assert f"{interval['value']:.4f} [{interval['low']:.4f}, {interval['high']:.4f}]" in page.text
        for run in configuration.report["seeds"]:
            low, high = run["interval"]["low"], run["interval"]["high"]
            assert f"{run['interval']['value']:.4f} [{low:.4f}, {high:.4f}]" in page.text
    assert shown > 20


def test_importance_finds_what_matters(found: SearchFolder, page: Page) -> None:
    assert "PED-ANOVA" in page.text and "20 complete trials is among the best 25%" in page.text
    rows = dict(re.findall(r"(\w+(?: \(\w+\))?) [-\d.e]+ to [-\d.e]+(?: \(log scale\))? ([01]\.\d\d) ", page.text))
    assert float(rows["head_lr"]) == max(map(float, rows.values())) and float(rows["head_lr"]) > 0.3


def test_too_few_trials_say_so(data: Path, tmp_path: Path) -> None:
    text = Page(report([make(data, 6, name="short")], tmp_path / "r.html").read_text(encoding="utf-8")).text
    assert "3 complete trials are too few to tell; at least 10 are needed." in text
    assert "No final was made" in text


def test_an_empty_search(data: Path, tmp_path: Path) -> None:
    page = Page(report([make(data, 0, name="empty")], tmp_path / "r.html").read_text(encoding="utf-8"))
    assert page.problems == []
    assert "No trial is complete yet" in page.text and "0 of 30" in page.text and "none complete" in page.text


def test_several_searches_side_by_side(found: SearchFolder, data: Path, tmp_path: Path) -> None:
    other = make(data, 12, name="other", backbones=["mae_tiny"], weights={"mae_tiny": "random"})
    page = Page(report([found, other], tmp_path / "r.html").read_text(encoding="utf-8"))
    assert page.problems == []
    table = page.text[page.text.index("Datasets by backbones") : page.text.index("Search found")]
    assert table.count("not searched") == 1 and table.count("test 0.") == 2
    identifiers = [value for tag, name, value in page.attributes if name == "id" and tag in ("section", "h3")]
    assert len(identifiers) == len(set(identifiers)) > 4


def test_a_second_final_and_what_people_wrote_in_it(found: SearchFolder, tmp_path: Path) -> None:
    copy = tmp_path / "found"
    shutil.copytree(found.path, copy)
    file = copy / "final" / "result.json"
    result = json.loads(file.read_text())
    shutil.copytree(file.parent, copy / "second")
    file = copy / "second" / "result.json"
    result["fit"] = "all"
    for configuration in result["configurations"]:
        for run in configuration["seeds"]:
            run["validation"] = None
    result["opening"] |= {"opening": 2, "reason": "<script>alert(1)</script>"}
    result["counts"]["test"] = {
        f"<b>{name}" if i else "a/b": n for i, (name, n) in enumerate(result["counts"]["test"].items())
    }
    file.write_text(json.dumps(result))
    html = report([SearchFolder(copy)], tmp_path / "r.html").read_text(encoding="utf-8")
    assert "<script>" not in html and "<b>1</td>" not in html and "a/b" not in html
    assert "&lt;b&gt;1</td>" in html
    text = Page(html).text
    assert "opened again because: “<script>alert(1)</script>”" in text and "class 0" in text
    assert text.index("Final: balanced") < text.index("Final (second): balanced")
    assert "Learned from training and validation parts together" in text and "not validated" in text
    assert "--seeds 2 --fit all" in text


def test_labels_of_two_sources_are_told_apart(found: SearchFolder, tmp_path: Path) -> None:
    copy = tmp_path / "found"
    shutil.copytree(found.path, copy)
    file = copy / "final" / "result.json"
    result = json.loads(file.read_text())
    result["labels_from"] = {"validation": "reports", "test": "radiologists"}
    result["caveats"] = ["digits: drawn by hand, in a/secret/folder say."]
    file.write_text(json.dumps(result))
    [made] = finals(copy)
    assert made.labels_differ and not finals(found.path)[0].labels_differ
    html = report([SearchFolder(copy)], tmp_path / "r.html").read_text(encoding="utf-8")
    text = Page(html).text
    assert not Page(html).problems and "labels by reports radiologists" in text
    assert "(d) is measured against other labels than (a) to (c)" in text
    assert "Digits: drawn by hand, in ... say." in text
    assert "- Digits: drawn by hand, in ... say." in report([SearchFolder(copy)], tmp_path / "r.md").read_text()
    rows = list(csv.DictReader(report([SearchFolder(copy)], tmp_path / "r.csv").open()))
    assert {row["labels_from"] for row in rows if row["kind"] == "final"} == {"radiologists"}
    assert {row["labels_from"] for row in rows if row["kind"] == "trial"} == {""}, "digits don't say"


def test_intervals_of_few_groups_are_marked(page: Page, found: SearchFolder) -> None:
    """Ten classes of 60 test images: none has ten groups."""
    (made,) = finals(found.path)
    [first, _] = made.configurations
    shown = first.report["test"]
    assert any(note.startswith("interval unreliable") for note in shown["warnings"]), "what the mark goes by"
    assert f"{shown['value']:.4f} [{shown['low']:.4f}, {shown['high']:.4f}]*" in page.text
    points = [p for p in first.report["operating_points"] if "threshold" in p]
    sure, few = next((p["specificity"], p["sensitivity"]) for p in points if p["specificity"]["low"] is not None)
    shown = f"{sure['value']:.4f} [{sure['low']:.4f}, {sure['high']:.4f}]"
    assert sure["groups"] >= 10 > few["groups"]
    assert f"{shown}{sure['groups']} groups" in page.text.replace("] ", "]"), "no mark"
    assert f"{few['groups']} groups" in page.text and "isn't to be trusted" in page.text


def test_undefined_is_never_a_number(found: SearchFolder, tmp_path: Path) -> None:
    """A class without test images: its recall, and what rests on it, isn't defined, and the page says why."""
    copy = tmp_path / "found"
    shutil.copytree(found.path, copy)
    file = copy / "final" / "result.json"
    result = json.loads(file.read_text())
    for configuration in result["configurations"]:
        saved = copy / "final" / f"{configuration['name']}-test.npz"
        with np.load(saved) as arrays:
            keep = arrays["labels"] != 9
            np.savez(saved, probabilities=arrays["probabilities"][:, keep], labels=arrays["labels"][keep])
        for run in configuration["seeds"]:
            run["test"]["macro_auroc"] = None
        configuration["test"] |= {"low": None, "high": None, "sd_groups": None, "dof": None}
        configuration["test"]["warnings"] = ["no interval: class 9 has no groups"]
    result["configurations"][1]["seeds"] = result["configurations"][1]["seeds"][:1]
    file.write_text(json.dumps(result))
    missing = copy / "final" / f"{result['configurations'][1]['name']}-test.npz"
    missing.unlink()
    text = Page(report([SearchFolder(copy)], tmp_path / "r.html").read_text(encoding="utf-8")).text
    assert "9 9 0 0 not defined not defined" in text
    assert "macro AUROC isn't defined: 1 of 10 classes have no rows (class 9, counted from 0)." in text
    assert "No interval: class 9 has no groups." in text and "not known" in text
    assert f"the test predictions ({missing.name}) are missing or damaged" in text
    assert "nan" not in text
    missing.write_bytes(b"PK\3\4, and no more of a zip archive")
    text = Page(report([SearchFolder(copy)], tmp_path / "d.html").read_text(encoding="utf-8")).text
    assert f"the test predictions ({missing.name}) are missing or damaged" in text


def test_mistakes(found: SearchFolder, tmp_path: Path) -> None:
    with pytest.raises(Mistake, match="is a folder"):
        report([found], tmp_path)
    copy = tmp_path / "found"
    shutil.copytree(found.path, copy)
    file = copy / "final" / "result.json"
    result = json.loads(file.read_text())
    file.write_text(json.dumps({**result, "format": 99}))
    with pytest.raises(Mistake, match="final/result.json: has format 99"):
        report([SearchFolder(copy)], tmp_path / "r.html")
    file.write_text(file.read_text()[:100])
    with pytest.raises(Mistake, match="damaged"):
        report([SearchFolder(copy)], tmp_path / "r.html")
    assert not (tmp_path / "r.html").exists()


def test_settings_are_shown_without_paths_and_addresses() -> None:
    config = SearchConfig.parse(
        {
            **SETTINGS,
            "dataset": {
                "reader": "csv",
                "root": "/mnt/x/chest",
                "options": {"table": "tables/all.csv", "group": "who"},
            },
            "weights": {"mae_tiny": "/home/me/mae.pth", "dinov2_tiny": "random"},
            "study": "postgresql://me:word@host/db",
            "mlflow": "http://me:word@host:5000",
            "cache": "/scratch/me",
        },
        "test",
    )
    shown = shown_settings(config)
    assert shown["dataset"]["root"] == "withheld"
    assert shown["dataset"]["options"] == {"table": "withheld", "group": "withheld"}
    assert shown["weights"] == {"mae_tiny": "a file", "dinov2_tiny": "random"}
    for secret in ("/mnt", "chest", "all.csv", "who", "/home", "mae.pth", "/scratch", "word", "host"):
        assert secret not in json.dumps(shown)


def test_leaderboard(found: SearchFolder) -> None:
    trials = found.study().trials
    names, weights = (
        ["dinov2_tiny", "mae_tiny", "mae_b16"],
        dict.fromkeys(["dinov2_tiny", "mae_tiny", "mae_b16"], "random"),
    )
    rows = leaderboard(trials, names, "maximize", weights)
    assert rows[-1].backbone == "mae_b16" and rows[-1].best is None and rows[-1].mean is None
    assert sum(r.trials for r in rows) == 30 and sum(r.complete for r in rows) == 20
    assert sum(r.epochs for r in rows) == sum(len(t.epochs) for t in trials)
    first, second = (r.best.value for r in rows[:2] if r.best and r.best.value is not None)
    assert first >= second
    lowest = leaderboard([replace(t) for t in trials], names, "minimize", weights)[0].best
    assert lowest is not None and lowest.value == min(t.value for t in trials if t.value is not None)


def test_backbones_are_told_apart_without_colour() -> None:
    looks = styles([f"b{i}" for i in range(20)])
    assert len(set(looks.values())) == 20
    assert len({s.marker for s in list(looks.values())[:8]}) == 8


def test_as_markdown(found: SearchFolder, data: Path, tmp_path: Path) -> None:
    other = make(data, 12, name="md_other", backbones=["mae_tiny"], weights={"mae_tiny": "random"})
    text = report([found, other], tmp_path / "r.md").read_text(encoding="utf-8")
    for path in (str(data), "secret-folder", str(found.path), "patient-17", ".png", "<svg", "<td"):
        assert path not in text
    blocks = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    assert len(blocks) >= 8
    for block in blocks:
        cells = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
        assert len(cells) == 1, block
    table = next(block for block in blocks if block.startswith("| search | dataset"))
    row = table.splitlines()[2]
    assert row.startswith(f"| found | data {found.study().identity['data'][:8]} | balanced accuracy | ")
    assert row.count("test 0.") == 2
    assert "[0." in row and "not searched" in table.splitlines()[3]
    (made,) = finals(found.path)
    shown = made.configurations[0].report["test"]
    assert f"{shown['value']:.4f} [{shown['low']:.4f}, {shown['high']:.4f}]" in text
    assert "device-hours (CPUs) in epochs" in text and "opened 1 time" in text
    worth = next(block for block in blocks if block.startswith("| configuration | (a) found"))
    again = made.configurations[0].report["reseeded"]
    assert f"| {again['value']:.4f} | none | {shown['value']:.4f} [" in worth.replace("\\", "")
    assert "can't prove that nobody looked elsewhere" in text
    counts = found.study().identity["counts"]
    assert f"| 3 | {counts['train']['3']} | {counts['validation']['3']} | {counts['test']['3']} |" in text
    for configuration in made.configurations:
        report_ = configuration.report
        [part] = re.findall(rf"### Test, {report_['name']}\n(.*?)\n###", text, re.DOTALL)
        assert f"(seed {report_['shipped']['seed']}): {report_['shipped']['test']['value']:.4f}" in part
        for row in report_["classes"]:
            recall = row["intervals"]["recall"]
            own = f"{recall['value']:.4f} " + ("[" if recall["low"] is not None else "(no interval)")
            assert f"| {row['name']} | {row['positive']} | {row['negative']} | {own}" in part
        after = report_["calibration"]["intervals"]["test_after"]["brier"]
        assert f"at temperature {report_['calibration']['temperature']:.3g} |" in part
        assert f"{after['value']:.4f} [{after['low']:.4f}, {after['high']:.4f}]" in part
        for point in report_["operating_points"]:
            if "threshold" in point:
                threshold = "none reaches it" if point["threshold"] is None else f"{point['threshold']:.4f}"
                assert f"| {threshold} | specificity 0.9 | {point['sensitivity']['value']:.4f} " in part
    assert "| 3 | failed | 0 | RuntimeError |" in text
    assert found.study().identity["split"] in text


def test_as_a_table(found: SearchFolder, data: Path, tmp_path: Path) -> None:
    other = make(data, 6, name="csv_other")
    file = report([found, other], tmp_path / "results.csv")
    rows = list(csv.DictReader(file.open(encoding="utf-8")))
    trials = [row for row in rows if row["kind"] == "trial"]
    assert len(trials) == 36 and {row["search"] for row in rows} == {"found", "csv_other"}
    for row, trial in zip(trials, found.study().trials, strict=False):
        assert int(row["trial"]) == trial.number and float(row["head_lr"]) == trial.point["head_lr"]
        assert not trial.value or float(row["value"]) == trial.value
        ends = value_interval(trial, "balanced_accuracy", 4)
        assert (row["low"], row["high"], row["interval_level"]) == ((*map(str, ends), "0.95") if ends else ("", "", ""))
        assert row["level"] == str(trial.point.get("level", "")), "of augmentation"
    assert trials[3]["cause"] == "RuntimeError" and trials[3]["value"] == ""
    assert sum(bool(row["low"]) for row in trials[:30]) == 20, "each complete trial has one"
    tests = [row for row in rows if row["kind"] == "final"]
    expected = [c.report["test"] for c in finals(found.path)[0].configurations]
    assert [(float(r["low"]), float(r["high"]), r["seeds"]) for r in tests] == [
        (e["low"], e["high"], "2") for e in expected
    ]
    text = file.read_text(encoding="utf-8")
    assert not [word for word in (str(data), "patient-17", ".png") if word in text]


def test_the_suffix_says_what_is_written(found: SearchFolder, tmp_path: Path) -> None:
    with pytest.raises(Mistake, match='expected .html, .md or .csv, found ".pdf"'):
        report([found], tmp_path / "r.pdf")


def test_the_cost_is_on_the_page(page: Page, found: SearchFolder) -> None:
    study = found.study()
    seconds = sum(t.seconds for t in study.trials)
    assert f"cost {seconds / 3600:.2g} device-hours (CPUs)" in page.text
    assert f"no accelerator, {seconds / 3600:.2g} CPU hours in epochs" in page.text
    assert "saved by sharing nothing is known of it" in page.text, "no trial of a record that was made up left a count"


def copied(found: SearchFolder, folder: Path) -> SearchFolder:
    """A copy to change, in a storage of its own, whose ledger knows of no opening."""
    return SearchFolder(shutil.copytree(found.path, folder / "found"))


def test_all_workers_of_a_trial_are_counted(found: SearchFolder, tmp_path: Path) -> None:
    """In what was spent as in what it cost."""
    copy = copied(found, tmp_path)
    resources = ResourcesConfig(workers=2, cpus=3, accelerators=1)
    folders.write_settings(copy, copy.config().model_copy(update={"resources": resources}))
    hours = sum(t.seconds for t in copy.study().trials) / 3600
    told = f"{2 * hours:.2g} accelerator hours, {6 * hours:.2g} CPU hours in epochs"
    text = Page(report([copy], tmp_path / "r.html").read_text(encoding="utf-8")).text
    assert told in text and f"cost {2 * hours:.2g} device-hours (accelerators)" in text
    text = report([copy], tmp_path / "r.md").read_text(encoding="utf-8")
    assert told in text and f"| cost | {2 * hours:.2g} device-hours (accelerators) in epochs |" in text


def test_what_sharing_saved_is_told_as_far_as_it_is_known(found: SearchFolder, tmp_path: Path) -> None:
    copy = copied(found, tmp_path)
    file = trial_folder(copy.path, 0) / END
    file.parent.mkdir(parents=True)
    for counts, told in (
        ({"computed": 0, "read": 0}, "nothing is known of it"),
        ({"computed": 90, "read": 0}, "nothing: every pass through frozen blocks was computed"),
        (
            {"computed": 90, "read": 30},
            "25% of the passes of training images through frozen blocks: 30 read, 90 computed",
        ),
    ):
        file.write_text(json.dumps([{"counts": counts}]))
        text = Page(report([copy], tmp_path / "r.html").read_text(encoding="utf-8")).text
        assert f"saved by sharing {told}" in text
        assert f"| saved by sharing | {told}" in report([copy], tmp_path / "r.md").read_text(encoding="utf-8")


def test_markdown_says_what_html_says_of_a_final(found: SearchFolder, tmp_path: Path) -> None:
    """Another split, other labels, subgroups, the comparison's terms, RANDOM weights, and why the test was opened
    again."""
    copy = copied(found, tmp_path)
    assert "| test set | the ledger beside this search knows of no opening |" in (
        report([copy], tmp_path / "r.md").read_text(encoding="utf-8")
    )
    file = copy.path / "final" / "result.json"
    result = json.loads(file.read_text())
    result["digests"]["split"] = "0" * 64
    result["labels_from"] = {"validation": "reports", "test": "radiologists"}
    result["opening"] |= {"opening": 2, "reason": "a reviewer asked for | it"}
    result["comparison"] |= {"margin": 0.02, "warnings": ["too few groups to tell"], "level": 0.9}
    result["comparison"]["recipes"][0]["within_margin"] = None
    interval = {"value": 0.5, "low": 0.4, "high": 0.6, "warnings": []}
    result["configurations"][0]["subgroups"] = [
        {"attribute": "age", "value": value, "groups": 21, "units": 34, "metric": interval}
        for value in ("60-79", "/data/jane")
    ]
    file.write_text(json.dumps(result))
    html = Page(report([copy], tmp_path / "r.html").read_text(encoding="utf-8")).text
    text = report([copy], tmp_path / "r.md").read_text(encoding="utf-8")
    name = result["configurations"][0]["name"]
    for both in (
        "made on another split than this search's",
        "(d) is measured against other labels than (a) to (c)",
        "Every further look makes its figures more optimistic.",
        "simultaneous 90% interval",
        "within 0.02 of the best",
        "The margin of 0.02 was settled before the search",
        "Too few groups to tell.",
        "can't be told",
        f"{name} (RANDOM weights)",
        "No (c) for",
    ):
        assert both in text and both in html, both
    assert "opened again because: “a reviewer asked for | it”." in html
    assert "opened again because: “a reviewer asked for \\| it”." in text
    assert "| labels by | reports | reports | reports | radiologists |" in text
    for value in ("60-79", "withheld"):
        assert f"| age {value} | 34 | 21 | 0.5000 [0.4000, 0.6000] |" in text
    assert "jane" not in text and "jane" not in html
    for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1, block
