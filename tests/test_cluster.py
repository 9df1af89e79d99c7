"""cluster.yaml, by Ray's own validator."""

from pathlib import Path

import pytest
from jsonschema.exceptions import ValidationError
from ray.autoscaler._private.util import prepare_config, validate_config
from ruamel.yaml import YAML

FILE = Path(__file__).parents[1] / "cluster.yaml"


def config() -> dict:
    return YAML(typ="safe").load(FILE.read_text())


def test_valid() -> None:
    validate_config(prepare_config(config()))
    with pytest.raises(ValidationError):
        validate_config(prepare_config({**config(), "max_wrokers": 3}))


def test_pinned_closed_and_without_secrets() -> None:
    import ray

    settings = config()
    assert f"ray:{ray.__version__}-" in settings["docker"]["image"]
    assert not any("nightly" in c or "releases/ray" in c for c in settings["setup_commands"])
    assert "--dashboard-host=127.0.0.1" in " ".join(settings["head_start_ray_commands"])
    assert "--env RAY_AUTH_MODE=token" in settings["docker"]["run_options"]
    assert settings["available_node_types"]["gpu_spot"]["min_workers"] == 0
    text = FILE.read_text().lower()
    assert not any(word in text for word in ("aws_secret", "aws_access", "password", "begin rsa"))
