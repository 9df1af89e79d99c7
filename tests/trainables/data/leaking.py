"""A simulated ISIC2019 that only a leak can learn: each lesion has a pattern and a diagnosis that was drawn for it, and
its images show the pattern with a little noise. Knowing other lesions says nothing of this one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from trainables.data.readers.isic2019 import CLASSES

NOISE = 12.0  # standard deviation of a pixel's noise, of 255; the patterns' is 74
IMAGES = (3, 4, 5, 6)  # of a lesion, in turn


def write_leaking(root: Path, lesions: int, side: int = 16, classes: int = len(CLASSES), seed: int = 0) -> Path:
    """Writes the two tables and the images.

    Args:
        lesions: how many; as many of each class as can be.
        side: of an image, in pixels; patterns have 8 x 8 cells.
        classes: how many of the eight occur.
    """
    generator = np.random.default_rng(seed)
    folder = root / "ISIC_2019_Training_Input"
    folder.mkdir(parents=True)
    labels, facts = [f"image,{','.join(CLASSES)},UNK"], ["image,age_approx,anatom_site_general,lesion_id,sex"]
    for lesion, label in enumerate(generator.permutation(np.arange(lesions) % classes)):
        pattern = np.kron(generator.integers(0, 256, (8, 8, 3)), np.ones((side // 8, side // 8, 1)))
        for number in range(IMAGES[lesion % len(IMAGES)]):
            name = f"ISIC_{lesion:05d}{number:02d}"
            pixels = np.clip(pattern + generator.normal(0, NOISE, pattern.shape), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{name}.jpg", quality=95, subsampling=0)
            labels.append(f"{name},{','.join('1.0' if i == label else '0.0' for i in range(len(CLASSES) + 1))}")
            facts.append(f"{name},50,anterior torso,HAM_{lesion:07d},female")
    (root / "ISIC_2019_Training_GroundTruth.csv").write_text("\n".join(labels) + "\n")
    (root / "ISIC_2019_Training_Metadata.csv").write_text("\n".join(facts) + "\n")
    return root
