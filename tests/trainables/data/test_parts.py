"""Parts hold each image beside its own label."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.trainables.digits import Digits
from trainables.data.pixels import DECODERS
from trainables.data.prepared import Prepared


def test_rows_are_the_files_of_their_part(digits: Digits) -> None:
    config, prepared = digits.config(level=0), Prepared.load(digits.prepared)
    data = digits.data(config)
    assert data.classes == tuple("0123456789") and data.task == "classification"
    for part, rows in ((data.train, prepared.train), (data.validation, prepared.validation)):
        assert len(part) == len(rows) == len(part.units)
        assert part.pixels.shape == (len(rows), 1, 56, 56) and part.pixels.dtype == torch.uint8
        for row in (0, 7, len(rows) - 1):
            path = prepared.manifest.paths[rows[row]]
            with Image.open(digits.folder / "images" / path) as image:
                expected = np.asarray(image.resize((56, 56), Image.Resampling.BICUBIC))
            assert np.array_equal(part.pixels[row, 0].numpy(), expected)
            assert data.classes[part.labels[row]] == path.split("/")[0]
    assert not set(data.train.units.groups) & set(data.validation.units.groups)


def test_training_images_are_larger_for_crops_validation_images_never(digits: Digits) -> None:
    data = digits.data(digits.config(level=2))
    assert data.train.pixels.shape[2:] == (67, 67)
    assert data.validation.pixels.shape[2:] == (56, 56)


def test_digest_is_of_images_labels_classes_and_size(digits: Digits) -> None:
    data = digits.data(digits.config(level=0))
    assert data.digest() == digits.data(digits.config(level=0)).digest()
    labels = data.train.labels.clone()
    labels[0] = (labels[0] + 1) % 10
    others = [
        digits.data(digits.config(level=1)),
        replace(data, train=replace(data.train, labels=labels)),
        replace(data, train=data.validation, validation=data.train),
        replace(data, classes=tuple(reversed(data.classes))),
    ]
    assert len({data.digest(), *(other.digest() for other in others)}) == 5


@pytest.mark.parametrize(("what", "value"), [("DECODERS", {**DECODERS, "pillow": "0.1"}), ("CODE", "other")])
def test_digest_is_not_of_what_decodes(digits: Digits, monkeypatch: pytest.MonkeyPatch, what: str, value: Any) -> None:
    """Checkpoints go by it: a trial goes on where Pillow was upgraded, though pixels are decoded anew."""
    before, other = digits.data(digits.config(level=0)), digits.dataset.model_copy(update={"fit": "pad"})
    monkeypatch.setattr(f"trainables.data.pixels.{what}", value)
    after = digits.data(digits.config(level=0))
    assert after.train.key != before.train.key
    assert after.digest() == before.digest()
    assert after.digest() != replace(digits, dataset=other).data(digits.config(level=0)).digest()
