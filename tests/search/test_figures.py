"""Pictures of a report: what explains them covers nothing of what they show."""

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from search import figures
from trainables.metrics import Reliability


@pytest.mark.parametrize("calibrated", [True, False])
def test_the_legend_lies_beside_the_reliability_curve(calibrated: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a model that is right wherever it is unsure, whose curve goes through every corner."""
    drawn: list[Figure] = []
    save = figures._svg
    monkeypatch.setattr(figures, "_svg", lambda figure, says: drawn.append(figure) or save(figure, says))
    curve = Reliability(np.array([0.02, 0.1, 0.5, 0.98]), np.array([0.97, 1.0, 0.0, 1.0]), np.array([5, 5, 5, 5]))
    svg = figures.reliability(curve, curve if calibrated else None, 1.5 if calibrated else None)
    assert "as they are" in svg and ("at temperature 1.5" in svg) is calibrated
    [figure] = drawn
    FigureCanvasAgg(figure).draw()
    [axes], legends = figure.axes, [*figure.legends, *(a.get_legend() for a in figure.axes if a.get_legend())]
    [legend] = legends
    outside, inside = legend.get_window_extent(), axes.get_window_extent()
    assert not inside.overlaps(outside)
    assert figure.bbox.containsx(outside.x0) and figure.bbox.containsx(outside.x1) and outside.y0 >= 0
    assert inside.width > figure.bbox.width / 2, "the curve keeps its room"
