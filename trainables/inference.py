"""A model's outputs and probabilities for the images of a part, without augmentation."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from spaces.config import TrialConfig
from trainables import sharding, watchdog
from trainables.accumulation import Pieces
from trainables.data.order import rank_share
from trainables.data.parts import Part
from trainables.model import Model
from trainables.place import ALONE, Place, autocast
from trainables.prefix import BATCH, Prefix


def predict(model: Model, config: TrialConfig, part: Part, place: Place = ALONE) -> np.ndarray:
    """Class probabilities float32 [U, classes] of a part's units."""
    outputs = torch.from_numpy(predict_outputs(model, Prefix(model, config, part, place)))
    return part.units.combined(model.output.probabilities(outputs).numpy())


def judge(model: Model, validation: Prefix, apart: bool = True) -> np.ndarray:
    """`predict` for the part that the outputs' own parameters are fitted on: cross-fitted, where there are any.

    Args:
        apart: whether the model didn't learn from that part; else nothing is fitted on it.
    """
    units, outputs = validation.part.units, predict_outputs(model, validation)
    if not apart:
        return units.combined(model.output.probabilities(torch.from_numpy(outputs)).numpy())
    return units.combined(model.output.judge(outputs, units))


def predict_outputs(model: Model, prefix: Prefix) -> np.ndarray:
    """The model's outputs float32 [N, width] for the images of a prefix's part, without augmentation."""
    model.eval()
    place, total, shared_out = prefix.place, len(prefix.part), sharding.sharded(model)
    # Where a block's weights come together for each batch, all workers need as many batches.
    least = -(-total // place.world) * place.world if shared_out else place.world
    rows = rank_share(np.arange(max(total, least)), place.rank, place.world)
    rows = np.minimum(rows, total - 1)  # a worker without rows takes one again, which `gather` leaves out
    pieces, outputs = Pieces(BATCH, place.device), []

    def forward(given: Tensor) -> Tensor:
        with autocast(place.device):
            return (model(given) if model.stem_trained else model.from_hidden(given)).float()

    with torch.no_grad() if shared_out else torch.inference_mode():  # weights that came together are trained with
        prefix.look_at(0)
        for given in prefix.stream(list(torch.from_numpy(rows).split(BATCH))):
            outputs.append(pieces.of(given, forward))
            watchdog.beat()
        return place.gather(torch.cat(outputs), total).cpu().numpy()
