from __future__ import annotations

import pytest

from trainables.data.readers.attributes import age_band, sex


@pytest.mark.parametrize(
    ("cell", "band"),
    [("", ""), ("0", "0-19"), ("19.9", "0-19"), ("20", "20-39"), ("55.0", "40-59"), ("79", "60-79"), ("80", "80+"),
     ("120", "80+"), ("121", None), ("-1", None), ("old", None), ("nan", None), ("inf", None)],
)  # fmt: skip
def test_bands_of_twenty_years(cell: str, band: str | None) -> None:
    assert age_band(cell) == band


def test_sexes() -> None:
    assert [sex(cell) for cell in ("Female", "male", "Unknown", "", "f")] == ["female", "male", "", "", None]
