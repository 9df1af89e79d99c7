"""The best epoch on validation: a trial's weights and predictions then, kept while it goes on."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from spaces.config import METRICS, Metric
from trainables.checkpoint import Checkpoint

WEIGHTS, PREDICTIONS, VALUE = "best", "best_validation", "best_value"


class BestEpoch:
    """Nothing yet, or the first of the epochs with the best value so far."""

    def __init__(self, metric: Metric) -> None:
        self._larger = METRICS[metric] == "maximize"
        self.value: float | None = None
        self.weights: dict[str, Tensor] = {}
        """Copies on the CPU."""
        self.probabilities = np.empty((0, 0), np.float32)

    def offer(self, value: float | None, weights: dict[str, Tensor], probabilities: np.ndarray) -> None:
        """Keeps an epoch if it is better than all before; one without a value never is."""
        if value is None:
            return
        if self.value is None or (value > self.value if self._larger else value < self.value):
            self.value, self.probabilities = value, probabilities.copy()
            self.weights = {name: tensor.detach().to("cpu", copy=True) for name, tensor in weights.items()}

    def save(self, checkpoint: Checkpoint) -> None:
        """Adds what is kept to a checkpoint."""
        if self.value is not None:
            checkpoint.state[VALUE] = self.value
            checkpoint.add(WEIGHTS, self.weights)
            checkpoint.add(PREDICTIONS, {"probabilities": torch.from_numpy(self.probabilities)})

    def restore(self, checkpoint: Checkpoint) -> None:
        """What `save` added."""
        self.value = checkpoint.state.get(VALUE)
        self.weights = checkpoint.kind(WEIGHTS)
        if self.value is not None:
            self.probabilities = checkpoint.kind(PREDICTIONS)["probabilities"].numpy()
