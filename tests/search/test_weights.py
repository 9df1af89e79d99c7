"""Files of weights are read by a check."""

from pathlib import Path

import pytest

from search.console import Console
from search.weights import look_at_weights
from spaces.config import SearchConfig
from spaces.mistakes import Mistake

GOLDEN = Path(__file__).parents[1] / "data" / "golden"


def test_files_that_don_t_fit_are_told_together() -> None:
    files = {"mae_base": str(GOLDEN / "sam2" / "checkpoint.pt"), "vmamba_tiny": str(GOLDEN / "README.md")}
    settings = {"name": "a", "dataset": {"reader": "folder", "root": "x"}}
    others = {"aimv2_tiny": "random"}  # and dinov2_base's, which aren't read here
    names = ["dinov2_base", "aimv2_tiny", *files]
    config = SearchConfig.parse({**settings, "backbones": names, "weights": files | others}, "s.yaml")
    with pytest.raises(Mistake) as caught:
        look_at_weights(config, Console.silent())
    told = str(caught.value)
    assert "that mae_base needs are missing" in told and "looks like SAM2" in told
    assert f"weights of vmamba_tiny: {files['vmamba_tiny']}: " in told
    assert "aimv2_tiny" not in told and "dinov2_base" not in told
    look_at_weights(config.model_copy(update={"weights": "random"}), Console.silent())
