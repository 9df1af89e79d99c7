"""cluster.yaml and what docs/cluster.md changes in it, by Ray's own validator; examples/kuberay.yaml."""

import re
from pathlib import Path
from typing import Any

import pytest
from jsonschema.exceptions import ValidationError
from ray.autoscaler._private.util import prepare_config, validate_config
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[1]
FILE = ROOT / "cluster.yaml"
SECRETS = ("aws_secret", "aws_access", "password", "begin rsa")


def config() -> dict[str, Any]:
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
    assert not any(word in text for word in SECRETS)


def test_own_machines() -> None:
    """The parts that the page says to change."""
    [text] = re.findall(r"```yaml\n(provider:.*?)```", (ROOT / "docs" / "cluster.md").read_text(), re.S)
    changed = {**config(), **YAML(typ="safe").load(text)}
    for left_out in ("available_node_types", "head_node_type", "initialization_commands"):
        del changed[left_out]
    prepared = prepare_config(changed)
    validate_config(prepared)
    [node_type] = prepared["available_node_types"].values()
    assert node_type["min_workers"] == node_type["max_workers"] == 2
    with pytest.raises(ValidationError):
        validate_config(prepare_config({**changed, "auth": {"user": "medtune"}}))


def test_kuberay() -> None:
    import ray

    text = (ROOT / "examples" / "kuberay.yaml").read_text()
    cluster = YAML(typ="safe").load(text)
    spec = cluster["spec"]
    assert (cluster["apiVersion"], cluster["kind"]) == ("ray.io/v1", "RayCluster")
    assert spec["rayVersion"] == ray.__version__ and spec["authOptions"] == {"mode": "token"}
    assert spec["headGroupSpec"]["serviceType"] == "ClusterIP"
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    assert spec["workerGroupSpecs"][0]["minReplicas"] == 0 and spec["enableInTreeAutoscaling"]
    pods = [group["template"]["spec"] for group in groups]
    assert len({pod["containers"][0]["image"] for pod in pods}) == 1, "one image, so one environment"
    for pod in pods:
        named = {volume["name"] for volume in pod["volumes"]}
        assert {mount["name"] for mount in pod["containers"][0]["volumeMounts"]} == named
        assert any(mount["mountPath"] == "/mnt/shared" for mount in pod["containers"][0]["volumeMounts"])
    assert not any(word in text.lower() for word in SECRETS)


def test_the_image_of_the_page_is_the_pinned_one() -> None:
    import ray

    assert f"FROM rayproject/ray:{ray.__version__}-" in (ROOT / "docs" / "cluster.md").read_text()
