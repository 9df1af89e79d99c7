"""A model folder behind MLflow: the module that `mlflow.pyfunc` loads it by. It needs neither MLflow nor a search."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from spaces.mistakes import Mistake
from trainables.predictor import Predictor, load_predictor

IMAGE = "image"


class Served:
    """Answers a table of images."""

    def __init__(self, predictor: Predictor) -> None:
        self.predictor = predictor

    def predict(self, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """A row for each image, with the columns of `Predictor.answers`.

        Args:
            model_input: its column `image` holds the bytes of image files (PNG, JPEG, TIFF, BMP, WEBP or DICOM).

        Raises:
            Mistake: images that can't be used, by their number in the request.
        """
        images = list(model_input[IMAGE])
        names = [f"image {number}" for number in range(1, len(images) + 1)]
        wrong = [name for name, image in zip(names, images, strict=True) if not isinstance(image, bytes)]
        if wrong:
            raise Mistake(f"{', '.join(wrong)}: expected the bytes of an image file (in JSON, as base64).")
        return pd.DataFrame(self.predictor.answers(self.predictor.probabilities(images, names)))


def _load_pyfunc(data_path: str) -> Served:
    """What MLflow calls, with the model folder that it kept."""
    return Served(load_predictor([Path(data_path)]))
