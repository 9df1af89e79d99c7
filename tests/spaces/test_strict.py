"""Settings are strict: every mistake is told, none is repaired silently."""

from pathlib import Path

import pytest

from spaces.config import SearchConfig, TrialConfig, parse_resolution
from spaces.mistakes import Mistake
from spaces.strict import parse_yaml, read_yaml

GOOD = {"name": "a", "dataset": {"reader": "folder", "root": "x"}, "backbones": ["dinov2_tiny"]}


def sentences(data: object) -> list[str]:
    with pytest.raises(Mistake) as caught:
        SearchConfig.parse(data, "s.yaml")
    return list(caught.value.sentences)


def test_all_mistakes_come_at_once() -> None:
    found = sentences({**GOOD, "bugdet": {}, "seed": "1", "dataset": {"reader": "folder", "rot": "x"}, "name": "a/b"})
    assert len(found) == 5
    assert 's.yaml: unknown key "bugdet". Did you mean "budget"?' in found
    assert 's.yaml: unknown key "rot" in "dataset". Did you mean "root"?' in found
    assert 's.yaml: "dataset.root" is missing; it has no default.' in found
    assert any("seed" in s and '"1"' in s for s in found)
    assert any("name" in s and '"a/b"' in s for s in found)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"seed": True}, "seed"),
        ({"seed": 1.5}, "seed"),
        ({"budget": {"trials": 0}}, "budget.trials"),
        ({"backbones": []}, "backbones"),
        ({"backbones": ["a", "a"]}, "twice"),
        ({"metric": "f2"}, "metric"),
        ({"metric": "accuracy", "direction": "minimize"}, "maximize"),
        ({"resources": {"accelerators": 1.5}}, "accelerators"),
        ({"resources": {"concurrent": 0}}, "concurrent"),
        ({"resources": {"labels": {"kind": "a,b"}}}, "in(a,b)"),
        ({"resources": {"shard": True}}, "workers is 1"),
        ({"budget": {"plateau": 0}}, "plateau"),
        ({"checkpoints": "s3://key:" + "word@bucket"}, "without credentials"),
        ({"checkpoints": "a/folder"}, "s3://bucket/folder"),
        ({"name": "../up"}, "name"),
    ],
)
def test_wrong_values(change: dict[str, object], word: str) -> None:
    assert any(word in sentence for sentence in sentences({**GOOD, **change}))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"backbones": "mae_tiny"}, 's.yaml: backbones: should be a list, as in [a, b]; found "mae_tiny".'),
        ({"backbones": []}, "s.yaml: backbones: should have 1 or more entries; found []."),
        ({"budget": 5}, "s.yaml: budget: should hold keys with values of their own; found 5."),
        ({"budget": {"trials": "3"}}, 's.yaml: budget.trials: should be a whole number; found "3".'),
        ({"metric": "accuracy", "direction": "minimize"}, "s.yaml: direction should be maximize for accuracy."),
        ({"trys": []}, 's.yaml: unknown key "trys". Did you mean "try"?'),
    ],
)
def test_in_the_words_of_settings(change: dict[str, object], sentence: str) -> None:
    assert sentence in sentences({**GOOD, **change})


def test_a_key_that_is_called_otherwise_inside_is_not_offered() -> None:
    [found] = sentences({**GOOD, "first": []})
    assert " try," in found and " first," not in found


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("a: 1\na: 2\n", 'repeated key "a"'),
        ("a: &x [1]\nb: *x\n", "anchors"),
        ("a: !!python/object/apply:os.system [ls]\n", "tag"),
        ("a: !mine 1\n", "tag"),
        ("a: [1\n", "not valid YAML"),
    ],
)
def test_yaml_that_is_refused(text: str, word: str) -> None:
    with pytest.raises(Mistake, match="line") as caught:
        parse_yaml(text, "s.yaml")
    assert word in str(caught.value)


def test_yaml_numbers_are_numbers() -> None:
    assert parse_yaml("a: 1e-3\nb: off\nc: 010\n", "x") == {"a": 0.001, "b": "off", "c": 10}


def test_missing_and_large_files(tmp_path: Path) -> None:
    with pytest.raises(Mistake, match="no such file"):
        read_yaml(tmp_path / "no.yaml")
    (tmp_path / "big.yaml").write_text("a: " + "x" * (1 << 20))
    with pytest.raises(Mistake, match="1 MiB"):
        read_yaml(tmp_path / "big.yaml")


def test_equal_settings_have_one_digest() -> None:
    one, two = SearchConfig.parse(GOOD, "a"), SearchConfig.parse({**GOOD, "seed": 0}, "b")
    assert one == two and hash(one) == hash(two) and one.digest() == two.digest()
    assert one.digest() != SearchConfig.parse({**GOOD, "seed": 1}, "a").digest()
    with pytest.raises(Exception, match="frozen"):
        one.seed = 3  # type: ignore[misc]


def test_plain_settings_are_read_back() -> None:
    config = SearchConfig.parse({**GOOD, "try": [{"head_lr": 1e-3}], "space": {"mixup": None}}, "a")
    assert SearchConfig.parse(config.plain(), "b") == config


def test_resolutions() -> None:
    assert parse_resolution(224) == (224, 224)
    assert parse_resolution("896x700") == (896, 700)
    with pytest.raises(ValueError, match="HEIGHT"):
        parse_resolution("big")
    settings = {
        "backbone": "b",
        "weights": "random",
        "metric": "accuracy",
        "epochs": 1,
        "seed": 0,
        "policy": "none",
        "head_lr": 1e-3,
    }
    assert TrialConfig.model_validate({**settings, "resolution": "56x70"}).resolution == (56, 70)
