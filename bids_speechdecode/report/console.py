"""The table of ranks as text, for the end of a run on a terminal or in a log."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import pandas as pd

from bids_speechdecode.report.figures import condition_label, condition_order

CHANCE = 0.5


def format_ranks(table: pd.DataFrame, title: str) -> str:
    """Return the conditions of one participant (or the group) as an aligned text table.

    Parameters
    ----------
    table : DataFrame
        Rows of a ``desc-conditions_scores.tsv``; the columns ``relative_rank``, ``ci_low``,
        ``ci_high`` and ``p_shift`` of a participant, ``mean_rank`` and ``p`` of a group.
    title : str
        First line.
    """
    rank = "relative_rank" if "relative_rank" in table else "mean_rank"
    p = "p_shift" if "p_shift" in table else "p"
    lines = [
        title,
        f"  {'condition':<50}{'rank':>7}  {'95% CI':^16}{'p':>8}",
    ]
    ordered = table.assign(order=table["condition"].map(condition_order))
    ordered = ordered.sort_values(["audio", "order"], ascending=[False, True])
    for row in ordered.to_dict("records"):
        label = condition_label(row["condition"], row["audio"])
        low, high = _number(row["ci_low"]), _number(row["ci_high"])
        lines.append(
            f"  {label:<50}{_number(row[rank]):>7}  [{low:>6}, {high:>6}]{_number(row[p]):>8}"
        )
    lines += _control_lines(ordered.to_dict("records"))
    lines.append(f"  {'chance':<50}{CHANCE:>7.3f}")
    return "\n".join(lines)


def _control_lines(rows: list[dict[Hashable, Any]]) -> list[str]:
    """Return what the last condition on the true task audio gives when the pairing is destroyed."""
    with_null = [r for r in rows if r["audio"] == "true" and "null_shift_rank" in r]
    if not with_null:
        return []
    row = with_null[-1]
    label = condition_label(row["condition"], row["audio"]).lower()
    return [
        f"  {f'control: {label}, {name}':<50}{_number(row[f'null_{null}_rank']):>7}"
        f"  [{_number(row[f'null_{null}_low']):>6}, {_number(row[f'null_{null}_high']):>6}]"
        for null, name in (("shift", "time-shifted"), ("shuffle", "shuffled"))
    ]


def _number(value: float) -> str:
    """Return three decimals, or n/a where there is no number."""
    return "n/a" if pd.isna(value) else f"{round(value, 3) + 0.0:.3f}"  # no minus before 0


def format_encoding(table: pd.DataFrame, title: str) -> str:
    """Return how well each speech model predicts the electrodes as an aligned text table.

    Parameters
    ----------
    table : DataFrame
        Rows of a ``desc-encoding_scores.tsv``.
    title : str
        First line.
    """
    cells = [("speech model", "layer", "band", "electrodes", "median r", "q <= 0.05")]
    for (model, layer, band), rows in table.groupby(["model", "layer", "band"], sort=False):
        n, found = int(rows["r"].notna().sum()), int((rows["q"] <= 0.05).sum())
        cells.append(
            (str(model), str(layer), str(band), str(n), _number(rows["r"].median()), str(found))
        )
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    align = (str.ljust, str.rjust, str.ljust, str.rjust, str.rjust, str.rjust)
    lines = [
        "  ".join(put(cell, width) for put, cell, width in zip(align, row, widths, strict=True))
        for row in cells
    ]
    return "\n".join([title, *(f"  {line}" for line in lines)])


def format_contrasts(table: pd.DataFrame, title: str) -> str:
    """Return how speech models compare over participants as an aligned text table.

    Parameters
    ----------
    table : DataFrame
        Rows of a group's ``desc-encodingContrasts_scores.tsv``; of these the broadband ones.
    title : str
        First line.
    """
    if not len(table):
        return f"{title}: one speech model, nothing to compare"
    shown = table[table["modulation"] == "broadband"].to_dict("records")
    labels = [
        f"{row['model']} - {row['reference']}, layer {row['layer']}, {row['band']}, "
        f"{row['electrodes']}"
        for row in shown
    ]
    width = max(map(len, ["speech model, electrodes", *labels])) + 1
    columns = f"{'gain in r':>10}  {'95% CI':^18}{'p':>7}{'n':>4}"
    lines = [title, f"  {'speech model, electrodes':<{width}}{columns}"]
    for label, row in zip(labels, shown, strict=True):
        low, high = (
            "n/a" if pd.isna(row[key]) else f"{round(row[key], 4) + 0.0:.4f}"
            for key in ("ci_low", "ci_high")
        )
        lines.append(
            f"  {label:<{width}}{round(row['difference'], 4) + 0.0:>10.4f}  [{low:>7}, {high:>7}]"
            f"{_number(row['p']):>7}{row['n_participants']:>4}"
        )
    return "\n".join(lines)
