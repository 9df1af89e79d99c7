"""Weights as their authors publish them: downloaded once from a hub or an address, whole or not at all."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub
import pytest
import timm
import torch
from safetensors.torch import save_file

from spaces.backbone import BackboneSpec, Source
from tests.trainables.test_backbones import golden, golden_file, golden_spec, sentences
from trainables.backbones import build, weights_digest


class Hub(ThreadingHTTPServer):
    """Files by path, in the way of the Hugging Face hub: a digest and a commit in the head of the answer."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.files: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.broken = False
        """Whether connections end in the middle of a file."""

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Answer(BaseHTTPRequestHandler):
    server: Hub

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        self.server.asked.append(f"{self.command} {self.path}")
        content = self.server.files.get(self.path)
        if content is None:
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        digest, whole = hashlib.sha256(content).hexdigest(), len(content)
        first = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")[0])
        self.send_response(206 if first else 200)
        if first:
            content = content[first:]
            self.send_header("Content-Range", f"bytes {first}-{whole - 1}/{whole}")
        self.send_header("ETag", f'"{digest}"')
        self.send_header("X-Repo-Commit", "0123456789abcdef0123456789abcdef01234567")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.wfile.write(content[: len(content) // 2] if self.server.broken else content)

    def log_message(self, format: str, *args: object) -> None: ...


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    constants = huggingface_hub.constants
    monkeypatch.setattr(constants, "ENDPOINT", server.address)
    template = server.address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "torch"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)  # between the client's tries
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def at(hub: Hub, spec: BackboneSpec, repository: str | None, file: str) -> BackboneSpec:
    address = f"{hub.address}/files/{file}"
    return spec.model_copy(update={"source": Source(address=address, repository=repository, file=file)})


def left(folder: Path) -> list[str]:
    """Files of weights, whole or in pieces; not the hub's links, locks and notes."""
    return sorted(p.name for p in folder.rglob("*") if p.is_file() and not p.is_symlink() and p.stat().st_size > 1000)


def test_timms_files_are_found_on_the_hub_under_timms_names(hub: Hub, tmp_path: Path) -> None:
    """DINOv2, MAE, AIMv2 and CLIP: the repository and file that timm knows, in timm's layout, downloaded once."""
    spec, native = golden_spec("dinov2"), golden("dinov2")
    known = timm.get_pretrained_cfg(spec.timm)
    state = {key: tensor.detach().contiguous() for key, tensor in native.trunk.state_dict().items()}
    save_file(state, tmp_path / "file")
    path = f"/{known.hf_hub_id}/resolve/main/model.safetensors"
    hub.files[path] = (tmp_path / "file").read_bytes()
    found = build(spec, weights="pretrained", resolution=spec.native)
    assert weights_digest(found) == weights_digest(native)
    assert [line for line in hub.asked if "/timm/" in line] == [f"HEAD {path}", f"GET {path}"]
    hub.files.clear()
    hub.asked.clear()
    again = build(spec, weights="pretrained", resolution=(56, 98))
    assert weights_digest(again) == weights_digest(golden("dinov2", (56, 98)))
    assert not hub.asked, "a trial doesn't wait for the network"


@pytest.mark.parametrize("layout", ["sam2", "coca"])
def test_official_files_of_a_repository(hub: Hub, layout: str) -> None:
    spec = at(hub, golden_spec(layout), f"authors/{layout}", golden_file(layout).name)
    hub.files[f"/authors/{layout}/resolve/main/{golden_file(layout).name}"] = golden_file(layout).read_bytes()
    found = build(spec, weights="pretrained", resolution=spec.native)
    assert weights_digest(found) == weights_digest(golden(layout))


def test_official_files_of_an_address(hub: Hub, tmp_path: Path) -> None:
    spec = at(hub, golden_spec("vmamba_t"), None, "vmamba.pth")
    hub.files["/files/vmamba.pth"] = golden_file("vmamba_t").read_bytes()
    for _ in range(2):
        found = build(spec, weights="pretrained", resolution=spec.native)
        assert weights_digest(found) == weights_digest(golden("vmamba_t"))
    assert hub.asked == ["GET /files/vmamba.pth"]
    assert left(tmp_path / "torch") == ["vmamba.pth"]


@pytest.mark.parametrize("repository", ["authors/vmamba", None])
def test_a_connection_that_breaks_leaves_nothing_that_passes_for_whole(
    hub: Hub, tmp_path: Path, repository: str | None
) -> None:
    spec = at(hub, golden_spec("vmamba_t"), repository, "vmamba.pth")
    content = golden_file("vmamba_t").read_bytes()
    hub.files |= {"/files/vmamba.pth": content, "/authors/vmamba/resolve/main/vmamba.pth": content}
    hub.broken = True
    told = sentences(spec, "pretrained")
    assert "weights of golden_vmamba_t: not in " in told and "can't be downloaded (" in told
    assert f"get {hub.address}/files/vmamba.pth" in told
    assert not [name for name in left(tmp_path) if not name.endswith(".incomplete")], (
        "which the hub's client goes on from"
    )
    hub.broken = False
    found = build(spec, weights="pretrained", resolution=spec.native)
    assert weights_digest(found) == weights_digest(golden("vmamba_t"))


@pytest.mark.parametrize("repository", ["authors/vmamba", None])
def test_what_isnt_there_is_told(hub: Hub, tmp_path: Path, repository: str | None) -> None:
    spec = at(hub, golden_spec("vmamba_t"), repository, "vmamba.pth")
    told = sentences(spec, "pretrained")
    assert "can't be downloaded (RemoteEntryNotFoundError)" in told if repository else "(HTTPError)" in told
    assert "name it in the settings: weights: {golden_vmamba_t: /path/to/vmamba.pth}" in told
    assert left(tmp_path) == []
    hub.shutdown()
    hub.server_close()
    assert "can't be downloaded (" in sentences(spec, "pretrained"), "nobody answers"
