"""The network of a trial: input, the cut at the frozen boundary, compilation, precision, save and load."""

from typing import Any

import pytest
import torch
from torch import Tensor

from spaces.backbone import backbone, table
from spaces.config import TrialConfig
from spaces.mistakes import Mistake
from trainables.model import Model, build_model, load_trained_state, trained_state

TINY = [name for name in table() if name.endswith("_tiny")]
DEPTHS = [0, 1, 2, "all"]


def config(name: str = "mae_tiny", **changes: Any) -> TrialConfig:
    settings = {
        "backbone": name,
        "weights": "random",
        "metric": "accuracy",
        "epochs": 1,
        "seed": 0,
        "resolution": backbone(name).native,
        "policy": "none",
        "head_lr": 1e-3,
        **changes,
    }
    return TrialConfig.model_validate(settings)


def built(name: str = "mae_tiny", **changes: Any) -> Model:
    torch.manual_seed(0)
    return build_model(config(name, **changes), 3)


def images(model: Model, channels: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(4, channels, *model.backbone.resolution, generator=generator)


@pytest.mark.parametrize("trained", DEPTHS)
@pytest.mark.parametrize("name", TINY)
def test_cut_at_the_boundary_logits_are_bitwise_the_same(name: str, trained: int | str) -> None:
    model = built(name, trained_blocks=trained)
    x = images(model)
    logits = model(x)
    assert logits.shape == (4, 3)
    assert torch.equal(model.from_hidden(model.hidden(x)), logits)
    stored = model.hidden(x).detach().clone()
    model.from_hidden(stored).sum().backward()
    from_stored = {n: p.grad for n, p in model.head.named_parameters()}
    model.zero_grad(set_to_none=True)
    model(x).sum().backward()
    assert all(torch.equal(p.grad, from_stored[n]) for n, p in model.head.named_parameters())


def test_input_is_normalised_as_the_family_wants_it() -> None:
    model = built()
    x = images(model)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in model.backbone.spec.mean_std)
    assert torch.equal(model(x), model.head(model.backbone((x - mean) / std).pooled))
    assert not {"mean", "std"} & model.state_dict().keys()


@pytest.mark.parametrize("name", TINY)
def test_grey_stands_for_three_channels(name: str) -> None:
    model = built(name)
    grey = images(model, channels=1)
    assert torch.equal(model(grey), model(grey.expand(-1, 3, -1, -1)))


def test_sides_that_differ() -> None:
    assert built(resolution=(96, 48))(torch.rand(2, 1, 96, 48)).shape == (2, 3)


@pytest.mark.parametrize("trained", DEPTHS)
def test_one_graph_forward_and_backward(trained: int | str) -> None:
    model = built("dinov2_reg_tiny", trained_blocks=trained).train()
    x = images(model)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    logits = compiled(x)
    assert torch.equal(logits, model(x))
    logits.sum().backward()
    compiled_gradients = [p.grad for p in model.parameters()]
    model.zero_grad(set_to_none=True)
    model(x).sum().backward()
    for found, parameter in zip(compiled_gradients, model.parameters(), strict=True):
        assert (found is None) == (parameter.grad is None)
        assert found is None or torch.equal(found, parameter.grad)


@pytest.mark.parametrize("name", TINY)
def test_bfloat16_gradients_are_finite(name: str) -> None:
    model = built(name, trained_blocks="all").train()
    with torch.autocast("cpu", torch.bfloat16):
        loss = torch.nn.functional.cross_entropy(model(images(model)).float(), torch.tensor([0, 1, 2, 0]))
    loss.backward()
    assert loss.isfinite() and all(p.grad.isfinite().all() for p in model.parameters())


def test_only_the_head_draws_from_the_global_random_state() -> None:
    first, again = built(trained_blocks=0), built(trained_blocks="all", drop_path=0.2, resolution=(96, 96))
    assert torch.equal(first.head.linear.weight, again.head.linear.weight)
    torch.manual_seed(1)
    other = build_model(config(), 3)
    assert not torch.equal(other.head.linear.weight, first.head.linear.weight)
    assert torch.equal(other.backbone.trunk.norm.weight, first.backbone.trunk.norm.weight)


@pytest.mark.parametrize("trained", DEPTHS)
@pytest.mark.parametrize("name", TINY)
def test_trained_state_is_all_that_differs(name: str, trained: int | str, tmp_path: Any) -> None:
    model = built(name, trained_blocks=trained)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1)
    torch.save(trained_state(model), tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    assert state.keys() == {n for n, p in model.named_parameters() if p.requires_grad}
    fresh = built(name, trained_blocks=trained)
    x = images(model)
    assert not torch.equal(fresh(x), model(x))
    load_trained_state(fresh, state)
    assert torch.equal(fresh(x), model(x))
    state[next(iter(state))].zero_()
    assert torch.equal(fresh(x), model(x)), "loading should copy"


def test_buffers_of_trained_parts_belong_to_the_state() -> None:
    model = built(trained_blocks=1)
    for part in (*model.backbone.trunk.blocks, model.head):
        part.register_buffer("running", torch.zeros(2))
    expected = {"backbone.trunk.blocks.1.running", "head.running"}
    assert {name for name in trained_state(model) if name.endswith("running")} == expected


def test_a_checkpoint_of_another_configuration() -> None:
    model = built(trained_blocks=1)
    state = {name: tensor.clone() for name, tensor in trained_state(model).items()}
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    missing = {name: tensor + 1 for name, tensor in state.items() if name != "head.linear.bias"}
    wrong = [
        (missing, "head.linear.bias is missing"),
        (state | {"head.other": torch.zeros(1)}, "head.other has no place"),
        (state | {"head.linear.weight": torch.zeros(5, 64)}, r"head.linear.weight is \[5, 64\] instead of \[3, 64\]"),
    ]
    for other, told in wrong:
        with pytest.raises(Mistake, match=rf"checkpoint: .*1 differences: {told}\); use the configuration"):
            load_trained_state(model, other)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    with pytest.raises(Mistake, match=r"12 differences"):
        load_trained_state(built(trained_blocks=2), state)
