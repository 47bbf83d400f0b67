"""Numbers of group tables without the dust of floating-point arithmetic."""

from __future__ import annotations

import pandas as pd

_DECIMALS = 10  # far below what ranks of some hundred windows, or p of permutations, can resolve


def round_off(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table with its numbers rounded to 10 decimals, so that zero is written 0.0.

    A mean of contributions that cancel may come out as 1e-19, and a difference with its sign
    turned as -0.0; either would be read as an effect with a direction.

    Examples
    --------
    >>> round_off(pd.DataFrame({"mean": [-0.0, 1e-19, 0.25]}))["mean"].tolist()
    [0.0, 0.0, 0.25]
    """
    numbers = table.select_dtypes("float").columns
    return table.assign(**{str(name): table[name].round(_DECIMALS) + 0.0 for name in numbers})
