"""Weights of a backbone: where they come from, that they fit exactly, and their digest.

A backbone is never silently random: every weight of it must be in the file, and every key of the file must have a place
or be on the family's short list of unused ones.
"""

from __future__ import annotations

import argparse
import hashlib
import pickle
import shutil
import zipfile
from collections import OrderedDict
from collections.abc import Collection, Mapping
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.request import urlopen

import timm
import torch
from huggingface_hub import constants, hf_hub_download
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from spaces.backbone import BackboneSpec, Source
from spaces.mistakes import Mistake
from trainables.backbones.families import Family
from trainables.backbones.recognise import looks_like
from trainables.backbones.torchscript import is_torchscript, read_torchscript
from trainables.backbones.vit import State
from trainables.files import replacing

WRAPPERS = ("model", "state_dict", "model_ema", "state_dict_ema")
"""Keys under which training scripts put the weights, beside an optimiser's state and the like. The first that is there
counts: a moving average of the weights, which some keep as well, only where it is alone."""
COUNTER = "n_averaged"
"""What torch's own moving average of a model counts beside it."""
SETTINGS: list[Any] = [argparse.Namespace, (OrderedDict, "yacs.config.CfgNode")]
"""What training scripts keep their arguments in, beside the weights: plain data, and read as such (VMamba's yacs nodes
as dictionaries, so that yacs isn't needed)."""
HUB_FILE = "model.safetensors"
SHOWN = 10
TIMEOUT = 60  # seconds without an answer


def pretrained_file(spec: BackboneSpec) -> Path:
    """The pretrained weights of a row of the table: from the local cache, else downloaded into it.

    The cache is Hugging Face's, or torch's for files that are on no hub.

    Raises:
        Mistake: there are none, or they are not in the cache and can't be downloaded.
    """
    where = f"weights of {spec.name}"
    if not spec.pretrained:
        raise Mistake(f"{where}: there are no pretrained ones; write weights: {{{spec.name}: random}}.")
    source = source_of(spec)
    return _from_hub(spec, source, where) if source.repository else _from_address(spec, source, where)


def source_of(spec: BackboneSpec) -> Source:
    """Where the weights of a row are published.

    Raises:
        ValueError: the row doesn't say, and timm doesn't know.
    """
    if spec.source is not None:
        return spec.source
    known = timm.get_pretrained_cfg(spec.timm) if spec.timm else None
    if known is None or not known.hf_hub_id:
        raise ValueError(f"{spec.name}: timm knows no weights {spec.timm}")
    file = known.hf_hub_filename or HUB_FILE
    page = f"https://huggingface.co/{known.hf_hub_id}"
    address = known.url if isinstance(known.url, str) and known.url else f"{page}/resolve/main/{file}"
    return Source(address=address, repository=known.hf_hub_id, file=file)


def _from_hub(spec: BackboneSpec, source: Source, where: str) -> Path:
    assert source.repository is not None
    try:
        # The cache first: a trial must neither wait for the network nor change its weights with it.
        return Path(hf_hub_download(source.repository, source.file, local_files_only=True))
    except LocalEntryNotFoundError:
        pass
    try:
        return Path(hf_hub_download(source.repository, source.file))
    except Exception as error:  # what the hub's client lets through of the transport that it uses, too
        cause = "offline mode is on" if constants.HF_HUB_OFFLINE else type(error).__name__
        cache = f"the Hugging Face cache ({constants.HF_HUB_CACHE})"
        other = f" or {source.file} of https://huggingface.co/{source.repository}"
        raise _unreachable(spec, source, where, cache, cause, other) from None


def _from_address(spec: BackboneSpec, source: Source, where: str) -> Path:
    cached = Path(torch.hub.get_dir()) / "checkpoints" / source.file
    if cached.is_file():
        return cached
    try:
        if constants.HF_HUB_OFFLINE:
            raise ConnectionError("offline")
        # Not torch.hub's own download, which keeps what a broken connection left as if it were whole.
        with urlopen(source.address, timeout=TIMEOUT) as answer, replacing(cached) as file:
            shutil.copyfileobj(answer, file, 1 << 20)
            length = answer.headers.get("Content-Length")
            if length is not None and file.tell() != int(length):
                raise ConnectionError(f"ended after {file.tell()} of {length} bytes")
    except (OSError, HTTPException) as error:
        cause = "offline mode is on" if constants.HF_HUB_OFFLINE else type(error).__name__
        raise _unreachable(spec, source, where, str(cached), cause) from None
    return cached


def _unreachable(spec: BackboneSpec, source: Source, where: str, cache: str, cause: str, other: str = "") -> Mistake:
    return Mistake(
        f"{where}: not in {cache}, and can't be downloaded ({cause}). "
        f"On a machine with network, get {source.address}{other}, "
        f"copy it to this one, and name it in the settings: "
        f"weights: {{{spec.name}: /path/to/{_official_name(spec)}}}."
    )


def read_file(path: Path, where: str) -> State:
    """Tensors by key from a file of torch's or of safetensors', mapped into memory where the format allows it.

    Nothing in the file is executed. Weights wrapped as {"model": ...} or {"state_dict": ...} are unwrapped.

    Raises:
        Mistake: no such file, or not a file of weights.
    """
    if not path.is_file():
        raise Mistake(f"{where}: no such file; expected pretrained, random, or the path of an official file.")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        if is_torchscript(path):
            return read_torchscript(path)
        with torch.serialization.safe_globals(SETTINGS):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError:
        raise Mistake(
            f"{where}: holds Python objects that could run code, or is no file of torch's; "
            "save its state dict alone with torch.save, or use the official file."
        ) from None
    except (SafetensorError, zipfile.BadZipFile, OSError, EOFError, RuntimeError, ValueError) as error:
        raise Mistake(f"{where}: can't be read ({type(error).__name__}); it may be cut short: get it again.") from None
    return _unwrapped(content, where)


def fitted(file: Mapping[str, Tensor], spec: BackboneSpec, family: Family, trunk: nn.Module, where: str) -> State:
    """The weights of a file, for each weight of the trunk exactly one, in fp32 and for the trunk's input size.

    Raises:
        Mistake: weights are missing, left over or of another shape.
    """
    state = family.without_unused(family.convert(dict(file)), spec)
    expected = trunk.state_dict()
    missing = sorted(expected.keys() - state.keys())
    unexpected = sorted(state.keys() - expected.keys())
    misshapen = [
        f"{key} {list(state[key].shape)} instead of {list(expected[key].shape)}"
        for key in sorted(expected.keys() & state.keys())
        if not family.resized.match(key) and state[key].shape != expected[key].shape
    ] + [
        f"{key} {list(state[key].shape)} instead of [..., {expected[key].shape[-1]}]"
        for key in sorted(expected.keys() & state.keys())
        if family.resized.match(key)
        and (state[key].ndim != expected[key].ndim or state[key].shape[-1] != expected[key].shape[-1])
    ]
    differences = [
        f"{len(keys)} of {len(total)} weights {problem}: {_some(keys)}"
        for keys, total, problem in (
            (missing, expected, f"that {spec.name} needs are missing"),
            (unexpected, state, f"in the file have no place in {spec.name}"),
            (misshapen, expected, "have another shape"),
        )
        if keys
    ]
    if differences:
        likeness = looks_like(dict(file))
        found = f"looks like {likeness}" if likeness else "is of no layout known here"
        raise Mistake(
            f"{where}: {'; '.join(differences)}. It {found}; "
            + (f"use the file of {spec.name}, {_official_name(spec)}." if spec.pretrained else "write random.")
        )
    state = family.resize(state, spec, trunk, where)
    return {key: tensor.float() if tensor.is_floating_point() else tensor for key, tensor in state.items()}


def random_state(spec: BackboneSpec, family: Family) -> State:
    """Random weights at the native size that depend on the backbone's name alone; no global random state is touched."""
    seed = int.from_bytes(hashlib.sha256(f"backbone {spec.name}".encode()).digest()[:7], "big")
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed: it would seed the accelerators as well, which fork_rng was told to leave alone.
        torch.default_generator.manual_seed(seed)
        return family.trunk(spec, spec.native, 0.0, "cpu").state_dict()


def weights_digest(backbone: nn.Module) -> str:
    """SHA-256, in hexadecimal, of names, shapes and fp32 bytes of all weights, sorted by name.

    Positions count at the size that they have been resampled to, so that it differs between resolutions.
    """
    whole = hashlib.sha256()
    for name, tensor in sorted(backbone.state_dict().items()):
        whole.update(f"{name} {list(tensor.shape)}\n".encode())
        whole.update(memoryview(tensor.detach().to("cpu", torch.float32).contiguous().numpy()).cast("B"))
    return whole.hexdigest()


def _unwrapped(content: Any, where: str) -> State:
    if isinstance(content, Mapping):
        for key in WRAPPERS:
            if isinstance(content.get(key), Mapping):
                content = content[key]
                break
    if not isinstance(content, Mapping) or not any(isinstance(value, Tensor) for value in content.values()):
        keys = f" with the keys {_some([str(key) for key in content])}" if isinstance(content, Mapping) else ""
        raise Mistake(
            f"{where}: expected weights by name, found a {type(content).__name__}{keys}; use the official file."
        )
    state = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
    # What DistributedDataParallel, and torch's AveragedModel, put before every key.
    wrapped = all(key.startswith("module.") for key in state if key != COUNTER)
    return {k.removeprefix("module."): tensor for k, tensor in state.items() if k != COUNTER} if wrapped else state


def _official_name(spec: BackboneSpec) -> str:
    return PurePosixPath(source_of(spec).address).name


def _some(names: Collection[str]) -> str:
    shown = ", ".join(list(names)[:SHOWN])
    return f"{shown}, and {len(names) - SHOWN} more" if len(names) > SHOWN else shown
