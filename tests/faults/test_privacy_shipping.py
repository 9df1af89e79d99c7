"""What travels to workers and what lies in the repository: our packages, no secret, nothing that another could take."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from search.cluster import PACKAGES
from search.folder import SearchFolder
from search.launch import _orders
from search.plan import Plan, plan
from search.record import Trial
from search.settings import load
from search.shadowing import finder, shadowed
from search.study import database_has
from search.tracking import reachable
from spaces.mistakes import Mistake
from tests.faults.ray_head import Head, ray_head
from tests.search.conftest import SETTINGS, write_digits

ROOT = Path(__file__).parents[2]
SECRETS = {
    "private key": r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----",
    "key of AWS": r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b",
    "token of GitHub": r"\bgh[pousr]_[A-Za-z0-9]{36,}\b",
    "token of Hugging Face": r"\bhf_[A-Za-z0-9]{30,}\b",
    "password in an address": r"\w+://[^/\s:@{}<>$]+:[^/\s@{}<>$*]+@",
    "assigned secret": r"""(?i)\b(?:password|secret|api_?key|auth_token)\b["']?\s*[:=]\s*["'][^"'\s{}<>$]{8,}["']""",
}
INVENTED = ("word", "secret", "p")
"""What tests write where a password would stand."""


def listed() -> list[Path]:
    told = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    return [ROOT / name.decode() for name in told.stdout.split(b"\0") if name and (ROOT / name.decode()).is_file()]


def found_in(text: str) -> list[str]:
    found = []
    for kind, expression in SECRETS.items():
        for match in re.finditer(expression, text):
            if not match[0].endswith(tuple(f":{word}@" for word in INVENTED)):
                found.append(f"{kind}: {match[0][:60]}")
    return found


def test_no_secret_in_the_repository() -> None:
    """No file of the repository holds a key, a token or a password; a planted one of each kind is found."""
    planted = (
        "-----BEGIN RSA " + "PRIVATE KEY-----", "AKIA" + "ABCDEFGHIJKLMNOP", "ghp_" + "a" * 36, "hf_" + "b" * 32,
        "postgresql://doe:" + "tiger99@host/db", 'api_key = "' + "c" * 20 + '"',
    )  # fmt: skip
    assert [found_in(text)[0].split(":")[0] for text in planted] == list(SECRETS)
    files = listed()
    assert len(files) > 100
    found = {}
    for file in files:
        data = file.read_bytes()
        if b"\0" not in data[:8000] and (secrets_there := found_in(data.decode(errors="replace"))):
            found[str(file.relative_to(ROOT))] = secrets_there
    assert found == {}


def test_only_sources_are_shipped(tmp_path: Path) -> None:
    """What Ray packs of the three packages are their sources, settings and templates: no data, key or environment."""
    from ray._private.runtime_env.packaging import create_package

    for package in PACKAGES:
        packed = tmp_path / f"{package}.zip"
        create_package(str(ROOT / package), packed, include_gitignore=True, include_parent_dir=True)
        with zipfile.ZipFile(packed) as archive:
            names = [name for name in archive.namelist() if not name.endswith("/")]
        assert any(name.endswith(".py") for name in names)
        kinds = {Path(name).suffix for name in names}
        assert kinds <= {".py", ".yaml", ".j2", ".typed"}, sorted(names)


def test_what_an_actor_is_told_holds_no_address(tmp_path: Path) -> None:
    """The order of a job carries neither the study's address nor MLflow's, which may hold a password."""
    write_digits(tmp_path / "images", 300)
    (tmp_path / "search.yaml").write_text(SETTINGS.replace("STORAGE", str(tmp_path / "runs")))
    planned = plan(load(tmp_path / "search.yaml", ["mlflow=off"]), tmp_path)
    addresses = {"study": "postgresql://jane:word@host/db", "mlflow": "http://jane:word@host"}
    planned = replace(planned, config=planned.config.model_copy(update=addresses))
    order = json.dumps(order_of(planned))
    assert "word" not in order and "host" not in order and "images" in order


def order_of(planned: Plan) -> dict[str, Any]:
    point = planned.space.complete({})
    return _orders(SearchFolder(planned.folder), planned)([Trial(0, point, 0, "job-00000", 0.0)])


def test_another_package_of_the_same_name_is_named_with_both_places(tmp_path: Path) -> None:
    """In a process that would import others, the finder says which, from where, and from where it should be."""
    (tmp_path / "trainables.py").write_text("raise SystemExit('this is never run')")
    (tmp_path / "spaces").mkdir()
    (tmp_path / "spaces" / "__init__.py").touch()
    code = (
        "import pickle, sys; find = pickle.loads(bytes.fromhex(sys.argv[1])); sys.path.insert(0, sys.argv[2]); "
        "import json; print(json.dumps(find(['spaces', 'trainables', 'search', 'nothing_of_this_name'])))"
    )
    import ray.cloudpickle

    pickled = ray.cloudpickle.dumps(finder()).hex()
    bare = [sys.executable, "-c", code, pickled, str(tmp_path)]
    done = subprocess.run(bare, capture_output=True, text=True, cwd=tmp_path, timeout=60)
    assert done.returncode == 0, done.stderr
    there = {name: (place, digest) for name, (place, digest) in json.loads(done.stdout).items()}
    here = finder()(PACKAGES)
    assert here["search"] == there["search"] and there["nothing_of_this_name"] == ("", "")
    first, second = shadowed("gpu-7", there, here)
    assert f'"spaces" something else, in {tmp_path / "spaces"}; this process has it from {ROOT / "spaces"}' in first
    assert f'"trainables" something else, in {tmp_path / "trainables.py"}; this' in second
    assert shadowed("gpu-7", here, here) == []


@pytest.fixture
def strange_cluster(tmp_path: Path) -> Iterator[Head]:
    """A node with token authentication whose Python has imported other `spaces` at its start, as what stands in a .pth
    file may do: what is shipped comes first otherwise."""
    (tmp_path / "theirs" / "spaces").mkdir(parents=True)
    (tmp_path / "theirs" / "spaces" / "__init__.py").touch()
    (tmp_path / "sitecustomize.py").write_text(
        f"import sys\nsys.path.insert(0, {str(tmp_path / 'theirs')!r})\nimport spaces\n"
    )
    with ray_head({"PYTHONPATH": str(tmp_path)}) as head:
        yield head


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_node_with_other_packages_is_known_before_the_start(strange_cluster: Head, tmp_path: Path) -> None:
    """On a real node where `spaces` is something else, the look before the start says so, with both places, and no
    trial is begun: neither a folder, nor a record in a database, nor a run in MLflow is left behind."""
    write_digits(tmp_path / "images", 300)
    (tmp_path / "search.yaml").write_text(SETTINGS.replace("STORAGE", str(tmp_path / "runs")))
    command = [sys.executable, "-m", "search.cli", "search", str(tmp_path / "search.yaml"), "--set", "mlflow=local"]
    record = f"sqlite:///{tmp_path / 'record.db'}"
    words = ["--set", f"study={record}", "--address", strange_cluster.address]
    done = subprocess.run(  # Ray reads a token once in a process
        [*command, *words], env=strange_cluster.environment, capture_output=True, text=True, timeout=500
    )
    told = " ".join(done.stderr.split())
    assert done.returncode == 2, done.stdout + done.stderr
    assert str(tmp_path / "theirs" / "spaces") in told and str(ROOT / "spaces") in told and "Traceback" not in told
    assert not (tmp_path / "runs" / "digits").exists() and not database_has(record, "digits")
    assert not list((tmp_path / "runs").glob("mlflow*"))


def test_an_address_with_a_password_is_told_without_it(capfd: pytest.CaptureFixture[str]) -> None:
    """Where MLflow's address holds a password and nobody answers, neither the sentence nor anything printed does."""
    with pytest.raises(Mistake) as caught:
        reachable("http://jane:" + "word@127.0.0.1:9")
    printed = capfd.readouterr()
    for told in (str(caught.value), printed.out, printed.err):
        assert "word" not in told and "jane" not in told
    assert "http://127.0.0.1:9" in str(caught.value)
    with pytest.raises(Mistake, match="nothing can be sent to http://127.0.0.1 "):
        reachable("http://jane:" + "word@127.0.0.1")
    assert "Traceback" not in capfd.readouterr().err
