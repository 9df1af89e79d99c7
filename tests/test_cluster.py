"""cluster.yaml and what docs/cluster.md changes in it, by Ray's own validator; examples/kuberay.yaml."""

import os
import re
import socket
import subprocess
import time
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from jsonschema.exceptions import ValidationError
from ray.autoscaler._private.util import prepare_config, validate_config
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[1]
FILE = ROOT / "cluster.yaml"
PAGE = ROOT / "docs" / "cluster.md"
SECRETS = ("aws_secret", "aws_access", "password=", "password:", "pgpassword", "begin rsa")
[UV] = re.findall(r"uv==(\S+?);", (ROOT / "Makefile").read_text())


def config() -> dict[str, Any]:
    return YAML(typ="safe").load(FILE.read_text())


def write_program(path: Path, body: str) -> None:
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


def bash(command: str, programs: Path) -> subprocess.CompletedProcess[str]:
    """Runs a command of a file, with stand-ins for what only root may do."""
    environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"}
    return subprocess.run(["bash", "-c", command], env=environment, capture_output=True, text=True, timeout=60)


def test_valid() -> None:
    validate_config(prepare_config(config()))
    with pytest.raises(ValidationError):
        validate_config(prepare_config({**config(), "max_wrokers": 3}))


def test_pinned_closed_and_without_secrets() -> None:
    import ray

    settings = config()
    assert settings["docker"]["image"] == f"rayproject/ray:{ray.__version__}-py311-gpu"
    assert not any("nightly" in c or "releases/ray" in c for c in settings["setup_commands"])
    assert "--dashboard-host=127.0.0.1" in " ".join(settings["head_start_ray_commands"])
    text = FILE.read_text().lower()
    assert not any(word in text for word in SECRETS) and not re.search(r"://[^/\s]*:[^/\s]*@", text)


def test_every_machine_has_the_locked_environment_in_order() -> None:
    """uv, then the lock, then this package; what is installed is what was copied."""
    settings = prepare_config(config())
    package = "/home/ray/medtune"
    assert settings["file_mounts"][package] == "."
    wanted = [
        f"pip install --quiet uv=={UV}",
        f"uv pip install --quiet --system --require-hashes -r {package}/requirements.lock",
        f"uv pip install --quiet --system --no-deps --no-build-isolation -e {package}",
    ]
    assert settings["worker_setup_commands"] == wanted
    assert settings["head_setup_commands"][:-1] == wanted, "Ray adds the head's own at the end"
    boto3 = settings["head_setup_commands"][-1]
    assert re.search(r"boto3==\d+\.\d+\.\d+ --overrides /home/ray/medtune/requirements\.lock$", boto3), boto3
    assert re.search(r"^boto", (ROOT / "requirements.lock").read_text(), re.M) is None, "say so no more"


def test_the_token_reaches_every_machine() -> None:
    settings = config()
    assert settings["file_mounts"]["/home/ray/.ray/auth_token"] == "~/.ray/auth_token"
    assert "--env RAY_AUTH_MODE=token" in settings["docker"]["run_options"]


def test_the_shared_storage_is_mounted_and_may_be_written_to() -> None:
    settings = config()
    assert "--volume /mnt/shared:/mnt/shared" in settings["docker"]["run_options"]
    commands = settings["initialization_commands"]
    [mount] = [
        i for i, c in enumerate(commands) if re.search(r"mount -t nfs4 .* fs-REPLACE_ME\.efs\.\S+:/ /mnt/shared$", c)
    ]
    region = settings["provider"]["region"]
    assert f"fs-REPLACE_ME.efs.{region}.amazonaws.com" in commands[mount]
    assert commands[mount - 1] == "sudo mkdir -p /mnt/shared"
    assert re.search(r"stat -c %u /mnt/shared\)\" != 0 \|\| sudo chown 1000:100 /mnt/shared$", commands[mount + 1])


@pytest.mark.parametrize("user, refused", [("1000", False), ("1005", True)])
def test_a_user_whom_the_container_doesnt_know_is_refused(tmp_path: Path, user: str, refused: bool) -> None:
    """He would own the token, which the container's user 1000 couldn't read. On AWS and on own machines."""
    write_program(tmp_path / "id", f"echo {user}")
    first = config()["initialization_commands"][0]
    assert own_machines()["initialization_commands"][0] == first
    done = bash(first, tmp_path)
    assert (done.returncode != 0) == refused and ("needs the id 1000" in done.stderr) == refused


def test_packages_are_installed_on_a_machine_that_is_updating_itself(tmp_path: Path) -> None:
    """apt's lists are locked at the first try; without a new list there may be nothing to install."""
    write_program(tmp_path / "sleep", "")
    write_program(
        tmp_path / "sudo",
        f"""cd {tmp_path}; echo "$*" >> calls
        case "$*" in *update*) test -e locked || {{ touch locked; exit 100; }} ;; esac""",
    )
    [install] = [c for c in config()["initialization_commands"] if "nfs-common" in c]
    done = bash(install.replace("mount.nfs4", "mount.none"), tmp_path)
    assert done.returncode == 0, done.stderr
    first, second, last = (tmp_path / "calls").read_text().splitlines()
    assert first == second == "apt-get update -qq"
    assert "DPkg::Lock::Timeout=" in last and "DEBIAN_FRONTEND=noninteractive" in last and "install -y" in last


def test_the_machines() -> None:
    """Trials on spot machines with an accelerator each and none of them at rest; an image for the locked torch."""
    types = config()["available_node_types"]
    head, worker = types["head"], types["gpu_spot"]
    assert config()["head_node_type"] == "head" and head["resources"] == {"CPU": 0, "GPU": 0}
    assert worker["min_workers"] == 0 and worker["max_workers"] > 0
    assert worker["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert re.match(r"(g[4-9]|g6e|p[3-9])\w*\.", worker["node_config"]["InstanceType"]), "has NVIDIA's accelerators"
    assert "GPU" not in worker["resources"], "Ray asks AWS how many"
    for machine in (head, worker):
        node = machine["node_config"]
        assert node["ImageId"] == "ami-REPLACE_ME", "Ray's own default has a driver for CUDA 11.2"
        [disk] = node["BlockDeviceMappings"]
        assert disk["Ebs"]["VolumeSize"] >= 256, "as in Ray's defaults; EC2 refuses less than the image's snapshot"


def test_the_record_and_mlflow_are_in_postgresql(tmp_path: Path) -> None:
    """What the head starts and what its searches are told lead to one place; the password comes from a file."""
    settings = config()
    assert settings["file_mounts"]["/home/ray/.pgpass"] == "~/.pgpass"
    options = dict(o.removeprefix("--env ").split("=", 1) for o in settings["docker"]["head_run_options"])
    assert options.keys() == {"PGHOST", "PGUSER", "PGSSLMODE"} and "REPLACE_ME" in options["PGHOST"]
    [start] = [c for c in settings["head_start_ray_commands"] if "mlflow server" in c]
    assert "--backend-store-uri postgresql+psycopg:///mlflow " in start
    header = FILE.read_text().partition("cluster_name:")[0]
    for text in (header, PAGE.read_text()):
        [study] = set(re.findall(r"study=(\S+)", text))
        [mlflow] = set(re.findall(r"mlflow=(\S+)", text))
        assert study == "postgresql+psycopg:///studies"
        assert mlflow == f"http://127.0.0.1:{re.findall(r'--port (.+?) ', start)[0]}"


def test_an_address_without_a_server_leads_to_that_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    import sqlalchemy

    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(30)
        monkeypatch.setenv("PGHOST", "127.0.0.1")
        monkeypatch.setenv("PGPORT", str(server.getsockname()[1]))
        engine = sqlalchemy.create_engine("postgresql+psycopg:///studies", connect_args={"connect_timeout": 2})
        with ThreadPoolExecutor(1) as pool:
            connecting = pool.submit(engine.connect)
            server.accept()[0].close()
            with pytest.raises(sqlalchemy.exc.OperationalError):
                connecting.result(30)


def test_mlflow_is_started_once(tmp_path: Path) -> None:
    """`ray up` goes through the commands again on a head that runs."""
    [start] = [c for c in config()["head_start_ray_commands"] if "mlflow server" in c]
    start = start.replace("/tmp/mlflow.log", str(tmp_path / "log"))
    write_program(tmp_path / "mlflow", f'echo "$*" >> {tmp_path / "calls"}')
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = server.getsockname()[1]
        assert bash(start.replace("5000", str(taken)), tmp_path).returncode == 0
        assert not (tmp_path / "calls").exists()
    assert bash(start.replace("5000", str(taken)), tmp_path).returncode == 0
    deadline = time.monotonic() + 30
    while not (tmp_path / "calls").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    [call] = (tmp_path / "calls").read_text().splitlines()
    assert call.startswith("server --backend-store-uri") and "--host 127.0.0.1" in call


def test_mlflow_answers_by_the_names_that_the_page_gives_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """By MLflow's own rule for the header Host, which 403 follows from."""
    from mlflow.server.fastapi_security import get_allowed_hosts
    from mlflow.server.security_utils import is_allowed_host_header

    servers = re.findall(r"^mlflow server .*", PAGE.read_text(), re.M)
    names = [urlsplit(address).netloc for address in re.findall(r"^mlflow: (http\S+)", PAGE.read_text(), re.M)]
    assert len(servers) == len(names) == 2
    for server, name in zip(servers, names, strict=True):
        options = dict(re.findall(r"--(\S+) (\S+)", server))
        monkeypatch.setenv("MLFLOW_SERVER_ALLOWED_HOSTS", options.get("allowed-hosts", ""))
        assert is_allowed_host_header(get_allowed_hosts(), name), (server, name)
        assert name.endswith(f":{options['port']}")
        assert (options["host"] == "127.0.0.1") == name.startswith("127.0.0.1")
    monkeypatch.setenv("MLFLOW_SERVER_ALLOWED_HOSTS", "")
    assert not is_allowed_host_header(get_allowed_hosts(), "mlflow.internal:5000"), "why it has to be told"


def test_what_the_lock_hasnt_is_named() -> None:
    for text in (FILE.read_text(), PAGE.read_text()):
        assert "uv pip install boto3==" in text
    [version] = set(re.findall(r"boto3==([\d.]+)", FILE.read_text() + PAGE.read_text()))
    assert version


def own_machines() -> dict[str, Any]:
    """cluster.yaml as the page says to change it."""
    [text] = re.findall(r"```yaml\n(provider:.*?)```", PAGE.read_text(), re.S)
    changed = {**config(), **YAML(typ="safe").load(text)}
    for left_out in ("available_node_types", "head_node_type"):
        del changed[left_out]
    return changed


def test_own_machines() -> None:
    changed = own_machines()
    prepared = prepare_config(changed)
    validate_config(prepared)
    [node_type] = prepared["available_node_types"].values()
    assert node_type["min_workers"] == node_type["max_workers"] == 2
    assert not any("nfs" in command for command in prepared["initialization_commands"])
    with pytest.raises(ValidationError):
        validate_config(prepare_config({**changed, "auth": {"user": "medtune"}}))


def kuberay() -> dict[str, Any]:
    return YAML(typ="safe").load((ROOT / "examples" / "kuberay.yaml").read_text())


def pods() -> dict[str, dict[str, Any]]:
    """The pods' specifications by the name of their first container."""
    spec = kuberay()["spec"]
    groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    return {group["template"]["spec"]["containers"][0]["name"]: group["template"]["spec"] for group in groups}


def test_kuberay() -> None:
    """Of a search's cluster: closed, with a token, and without trials on the head."""
    import ray

    cluster = kuberay()
    spec = cluster["spec"]
    assert (cluster["apiVersion"], cluster["kind"]) == ("ray.io/v1", "RayCluster")
    assert spec["rayVersion"] == ray.__version__ and spec["authOptions"] == {"mode": "token"}
    assert spec["headGroupSpec"]["serviceType"] == "ClusterIP"
    assert spec["headGroupSpec"]["rayStartParams"] == {"num-cpus": "0"}
    [workers] = spec["workerGroupSpecs"]
    assert workers["minReplicas"] == 0 < workers["maxReplicas"] and spec["enableInTreeAutoscaling"] is True
    assert spec["autoscalerOptions"]["idleTimeoutSeconds"] == 600
    text = (ROOT / "examples" / "kuberay.yaml").read_text().lower()
    assert not any(word in text for word in SECRETS)


@pytest.mark.parametrize(
    "place, fields",
    [
        ((), {"apiVersion", "kind", "metadata", "spec"}),
        (
            ("spec",),
            {
                "rayVersion", "authOptions", "enableInTreeAutoscaling", "autoscalerOptions", "headGroupSpec",
                "workerGroupSpecs",
            },
        ),
        (("spec", "headGroupSpec"), {"serviceType", "rayStartParams", "template"}),
        (("spec", "workerGroupSpecs", 0), {"groupName", "minReplicas", "maxReplicas", "rayStartParams", "template"}),
    ],
)  # fmt: skip
def test_kuberays_fields_are_those_that_were_checked(place: tuple[str | int, ...], fields: set[str]) -> None:
    """A field that the operator doesn't know is dropped without a word, so no other may come without a look at its
    schema."""
    found: Any = kuberay()
    for key in place:
        found = found[key]
    assert set(found) == fields


def test_kuberays_pods_have_one_pinned_image_and_the_shared_volume() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    found = pods()
    assert set(found) == {"ray-head", "ray-worker"}
    for pod in found.values():
        [container] = pod["containers"]
        images = {c["image"] for c in (container, *pod.get("initContainers", ()))}
        assert images == {f"REPLACE_ME/medtune:{version}"}, "one image, so one environment"
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        mounts = {mount["mountPath"]: volumes[mount["name"]] for mount in container["volumeMounts"]}
        assert mounts["/mnt/shared"]["persistentVolumeClaim"] == {"claimName": "medtune-shared"}
        assert mounts["/dev/shm"]["emptyDir"]["medium"] == "Memory", "Ray's objects"
        assert len(mounts) == len(volumes)
        assert {"name": "RAY_USAGE_STATS_ENABLED", "value": "0"} in container["env"]
        assert all(isinstance(variable["value"], str) for variable in container["env"]), "Kubernetes takes no numbers"


def test_kuberays_workers_have_an_accelerator_and_the_head_none() -> None:
    head, worker = (pods()[name]["containers"][0]["resources"] for name in ("ray-head", "ray-worker"))
    assert worker["requests"] == worker["limits"], "Kubernetes takes no other for accelerators"
    assert worker["limits"]["nvidia.com/gpu"] == 1
    assert "nvidia.com/gpu" not in {**head["requests"], **head["limits"]}


def test_kuberays_containers_may_write_to_the_volume(tmp_path: Path) -> None:
    """User 1000 of group 100, as Ray's images have it; by the group where the volume takes one, else by the head."""
    for pod in pods().values():
        assert pod["securityContext"] == {"fsGroup": 100, "fsGroupChangePolicy": "OnRootMismatch"}
        assert "securityContext" not in pod["containers"][0], "only what gives the volume away runs as root"
    [owner] = pods()["ray-head"]["initContainers"]
    assert owner["securityContext"] == {"runAsUser": 0}
    assert owner["volumeMounts"] == [{"name": "shared", "mountPath": "/mnt/shared"}]
    assert owner["command"][:2] == ["sh", "-c"]
    write_program(tmp_path / "chown", f'echo "$*" >> {tmp_path / "calls"}')
    for user in ("0", "1005"):
        write_program(tmp_path / "stat", f"echo {user}")
        assert bash(owner["command"][2], tmp_path).returncode == 0
    assert (tmp_path / "calls").read_text() == "1000:100 /mnt/shared\n", "once, of root's"


def test_the_image_of_the_page_is_the_pinned_one() -> None:
    import ray

    assert f"FROM rayproject/ray:{ray.__version__}-py311-gpu\n" in PAGE.read_text()
    assert re.findall(r"pip install --no-cache-dir (uv\S*)", PAGE.read_text()) == [f"uv=={UV}"]
