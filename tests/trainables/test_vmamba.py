"""VMamba: the files in circulation, the scan's order, and that it trains in fp32 whatever is around it."""

import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from torch import Tensor

from spaces.backbone import BackboneSpec, Source, backbone
from spaces.mistakes import Mistake
from trainables.backbones import build, weights_digest
from trainables.backbones.vmamba import SS2D, VmambaTrunk, _in_four_orders, _merged

GOLDEN = Path(__file__).parents[1] / "data" / "golden" / "vmamba_t" / "checkpoint.pth"
SPEC = backbone("vmamba_t").model_copy(
    update={
        "build": {"depths": [1, 1, 2, 1], "width": 14, "ssm_ratio": 1.0},
        "blocks": 5,
        "width": 112,
        "name": "small",
    }
)


def digest(path: Path | str, spec: BackboneSpec = SPEC) -> str:
    return weights_digest(build(spec, weights=path, resolution=(64, 64)))


def file() -> dict[str, Tensor]:
    return torch.load(GOLDEN, weights_only=True)["model"]


@pytest.mark.parametrize("linear", ["in_proj", "out_proj", "fc1", "fc2"])
def test_linear_layers_kept_as_convolutions(linear: str, tmp_path: Path) -> None:
    state = {k: v[:, :, None, None] if k.endswith(f"{linear}.weight") else v for k, v in file().items()}
    torch.save({"model": state}, tmp_path / "file.pth")
    assert digest(tmp_path / "file.pth") == digest(GOLDEN)


def test_settings_of_the_training_beside_the_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As yacs pickles them: a dict of its own class, with attributes, within another."""
    package, module = types.ModuleType("yacs"), types.ModuleType("yacs.config")

    class CfgNode(dict[str, Any]):
        pass

    CfgNode.__module__, CfgNode.__qualname__ = "yacs.config", "CfgNode"
    module.CfgNode = CfgNode  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "yacs", package)
    monkeypatch.setitem(sys.modules, "yacs.config", module)
    settings = CfgNode(MODEL=CfgNode(DROP_PATH_RATE=0.2))
    settings.__dict__["__immutable__"] = True
    torch.save({"model": file(), "model_ema": file(), "config": settings, "epoch": 3}, tmp_path / "file.pth")
    monkeypatch.undo()
    assert "yacs" not in sys.modules
    assert digest(tmp_path / "file.pth") == digest(GOLDEN)


def test_models_of_another_state_size_are_refused(tmp_path: Path) -> None:
    state = {k: v.expand(-1, 16).contiguous() if k.endswith("A_logs") else v for k, v in file().items()}
    torch.save({"model": state}, tmp_path / "file.pth")
    with pytest.raises(Mistake, match=r"A_logs \[56, 16\] instead of \[56, 1\]"):
        digest(tmp_path / "file.pth")


def test_pretrained_is_downloaded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "cache"))
    published = tmp_path / "published.pth"
    published.write_bytes(GOLDEN.read_bytes())
    spec = SPEC.model_copy(update={"source": Source(address=published.as_uri(), file="file.pth")})
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(Mistake, match=r"can't be downloaded \(offline mode is on\).*published.pth, copy it"):
        digest("pretrained", spec)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    assert digest("pretrained", spec) == digest(GOLDEN)
    published.unlink()
    assert digest("pretrained", spec) == digest(GOLDEN)
    (tmp_path / "cache" / "checkpoints" / "file.pth").unlink()
    with pytest.raises(Mistake, match="not in .*file.pth, and can't be downloaded"):
        digest("pretrained", spec)


def test_orders_of_the_scan() -> None:
    numbers = torch.arange(6.0).view(1, 2, 3, 1)
    orders = _in_four_orders(numbers.expand(4, -1, -1, -1, -1))[:, 0, :, 0]
    assert orders.tolist() == [[0, 1, 2, 3, 4, 5], [0, 3, 1, 4, 2, 5], [5, 4, 3, 2, 1, 0], [5, 2, 4, 1, 3, 0]]
    assert torch.equal(_merged(orders[:, None, :, None], 2, 3), 4 * numbers)


def test_sizes_of_the_released_models() -> None:
    for name, millions in (("vmamba_t", 30.249), ("vmamba_s", 50.148), ("vmamba_b", 88.558)):
        spec = backbone(name)
        trunk = VmambaTrunk(**spec.build, drop_path=0.0, device="meta")
        classifier = 1000 * spec.width + 1000
        assert (sum(p.numel() for p in trunk.parameters()) + classifier) / 1e6 == pytest.approx(millions, abs=1e-3)


def test_the_scan_runs_in_single_precision() -> None:
    torch.manual_seed(0)
    model, seen = SS2D(16, 1.0), []
    x = torch.randn(1, 4, 4, 16)
    model.out_norm.register_forward_pre_hook(lambda _, args: seen.append(args[0].dtype))
    with torch.autocast("cpu", torch.bfloat16):
        half = model(x)
    assert seen == [torch.float32]
    assert (half - model(x)).abs().max() < 0.05 * model(x).abs().max()


def test_odd_sides() -> None:
    model = build("vmamba_tiny", weights="random", resolution=(65, 33)).eval()
    features = model(torch.randn(1, 3, 65, 33))
    assert features.tokens.shape == (1, 6, 128) and features.pooled.isfinite().all()
