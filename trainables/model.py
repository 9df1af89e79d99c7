"""The network of one trial: normalisation, a backbone of which some is frozen, a head, and what its outputs mean."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from spaces.config import TrialConfig
from spaces.mistakes import Mistake
from trainables.adapters import add_adapters, merge_adapters
from trainables.backbones import Backbone, Features, build
from trainables.data.manifest import Task
from trainables.freezing import freeze
from trainables.heads import build_head
from trainables.outputs import Output, build_output
from trainables.sharding import own, part_of


class Model(nn.Module):
    """Images in [0, 1] to outputs (logits, or a score: see trainables.outputs). `from_hidden(hidden(images))` is the
    same, cut where training begins."""

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: Backbone, head: nn.Module, output: Output) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.output = output
        for name, values in zip(("mean", "std"), backbone.spec.mean_std, strict=True):
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Outputs [B, width] of images [B, 1 or 3, H, W], floats in [0, 1]; a grey channel stands for all three."""
        return self.from_hidden(self.hidden(images))

    @property
    def stem_trained(self) -> bool:
        """Whether everything is trained, so that nothing can be computed beforehand."""
        return self.backbone.trained_from == 0

    @property
    def frozen(self) -> bool:
        """Whether the head alone is trained."""
        return self.backbone.trained_from > self.backbone.spec.blocks + 1

    @property
    def cut(self) -> str:
        """Name of the place where training begins: what `hidden` gives."""
        if self.frozen:
            return "tokens" if self.head.reads_tokens else self.backbone.feature.name
        carried = self.backbone.carried(self.backbone.boundary)
        return f"block {self.backbone.boundary}" + (f" and {carried} CLS tokens before it" if carried else "")

    def hidden(self, images: Tensor) -> Tensor:
        """What the frozen part gives for images as `forward` takes them: the backbone's hidden state at its boundary,
        or the feature that the head reads where the whole backbone is frozen.

        It depends on no trained weight unless the stem is trained (`trained_blocks: all`), and is then no constant.
        """
        # A grey channel is broadcast to three, each with its own mean: exact, whatever the family's normalisation.
        normalised = (images - self.mean) / self.std
        if self.stem_trained:
            return self.backbone.prefix(normalised, 0)
        with torch.no_grad():
            hidden = self.backbone.prefix(normalised, self.backbone.boundary)
            return self._read(self.backbone.suffix(hidden, self.backbone.boundary)) if self.frozen else hidden

    def from_hidden(self, hidden: Tensor) -> Tensor:
        """Outputs [B, width] from what `hidden` gave."""
        if self.frozen:
            return self.head(hidden)
        return self.head(self._read(self.backbone.suffix(hidden, self.backbone.boundary)))

    def _read(self, features: Features) -> Tensor:
        return features.tokens if self.head.reads_tokens else features.pooled


def build_model(
    config: TrialConfig, classes: int, task: Task = "classification", backbone: Backbone | None = None
) -> Model:
    """The network of a trial on the CPU, frozen and adapted as configured.

    Args:
        backbone: of another model of the same configuration but for the head's own settings, to be shared with it.

    The head, and then adapters, are initialised from torch's global random state; nothing else draws from it.

    Raises:
        Mistake: what the backbone can't be built or adapted with (see `trainables.backbones.build`).
    """
    if backbone is None:
        backbone = build(
            config.backbone, weights=config.weights, resolution=config.resolution, drop_path=config.drop_path
        )
    freeze(backbone, config.trained_blocks)
    output = build_output(config, classes, task)
    try:
        backbone.give(config.feature)
    except ValueError as error:
        raise Mistake(f"feature: {error}.") from None
    head = build_head(config.head, backbone.spec, output.width, config.feature)
    if config.adapter != "none":
        add_adapters(backbone, config.adapter, config.adapter_rank, config.adapter_targets)
    parameters = dict(backbone.named_parameters())
    for name in backbone.for_pooled_alone() if head.reads_tokens else backbone.for_tokens_alone():
        parameters[name].requires_grad_(False)
    backbone.set_grad_checkpointing(config.grad_checkpointing)
    return Model(backbone, head, output)


def merged(model: Model, config: TrialConfig) -> TrialConfig:
    """Merges the model's adapters into its weights, in place; the configuration that builds a model of that form."""
    if config.adapter == "none":
        return config
    merge_adapters(model.backbone)
    return config.model_copy(update={"adapter": "none"})


def trained_state(model: Model) -> dict[str, Tensor]:
    """What a checkpoint holds: trained parameters, and the buffers that training changes. References, not copies."""
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    frozen |= {
        f"backbone.{name}"
        for name, _ in model.backbone.named_buffers()
        if model.backbone.depth_of(name) < model.backbone.trained_from
    }
    return {name: tensor for name, tensor in model.state_dict().items() if name not in frozen}


def averaged_state(model: Model) -> dict[str, Tensor]:
    """What an average of weights is taken over: `trained_state` without what is fitted to the model as a whole; of what
    is shared out among workers, this one's part."""
    return {name: own(tensor) for name, tensor in trained_state(model).items() if not name.startswith("output.")}


def load_trained_state(model: Model, state: Mapping[str, Tensor]) -> None:
    """Puts a checkpoint of `trained_state` into a model that was built and frozen alike.

    Raises:
        Mistake: other names or shapes than the model's trained ones; the model is then unchanged.
    """
    has = trained_state(model)
    differences = [f"{name} is missing" for name in has.keys() - state.keys()]
    differences += [f"{name} has no place" for name in state.keys() - has.keys()]
    differences += [
        f"{name} is {list(state[name].shape)} instead of {list(has[name].shape)}"
        for name in has.keys() & state.keys()
        if has[name].shape != state[name].shape
    ]
    if differences:
        shown = "; ".join(sorted(differences)[:10])
        raise Mistake(
            f"checkpoint: doesn't fit the configuration ({len(differences)} differences: {shown}); "
            "use the configuration that it was trained with."
        )
    with torch.no_grad():
        for name, tensor in has.items():
            own(tensor).copy_(part_of(state[name], tensor))
