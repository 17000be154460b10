"""The low and high ends of what making the hardware took, which no record has.

They follow from the hardware: a record's figure times the interval of such a machine over its
figure (docs/explanation/embodied.md). All of them add up linearly, since they rest on the same data
sets.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

MAKING_ENDS = (
    ("embodied_g", "embodied_low_g"),
    ("embodied_g", "embodied_high_g"),
    ("abiotic_kg_sb", "abiotic_low_kg_sb"),
    ("abiotic_kg_sb", "abiotic_high_kg_sb"),
)
"""The figures of records, and the ends that sums of them have."""


def making_terms(frame: pd.DataFrame) -> dict[str, Any]:
    """By end, each record's figure there, as it is where no end is known; and such figures."""
    import numpy as np

    g, kg_sb = (frame[name].to_numpy() for name in ("embodied_g", "abiotic_kg_sb"))
    cards = frame["gpu_models"]
    texts = [*cards.cat.categories, None]
    codes = cards.cat.codes.to_numpy().astype("int64") % len(texts)  # -1, for none, is the last
    known = ~np.isnan(g) | ~np.isnan(kg_sb)
    by_cards = _spreads(texts, np.unique(codes[known]))[:, codes]
    g_per_kg_sb = np.divide(g, kg_sb, out=np.full_like(g, np.nan), where=kg_sb > 0.0)
    # a figure of the user's own has other ends, and no column says that it is one
    is_tables = (g_per_kg_sb >= by_cards[4]) & (g_per_kg_sb <= by_cards[5])
    ratios = [*np.where(is_tables, by_cards[:2], np.nan), *by_cards[2:4]]
    found = {}
    for (name, end), ratio in zip(MAKING_ENDS, ratios, strict=True):
        figure, without = frame[name].to_numpy(), np.isnan(ratio)
        found[end] = figure * np.where(without, 1.0, ratio)
        found[f"without_{end}"] = np.where(without, figure, np.nan)
    return found


def _spreads(texts: list[str | None], codes: Any) -> Any:
    """For each text of cards: both ends in CO2e, in Sb eq, and of the ratio of the two figures."""
    import numpy as np

    found = np.full((6, len(texts)), np.nan)
    if len(codes):
        from carbontrack.impact.embodied import g_per_kg_sb_of, spread_of  # many have neither

        for code in codes:
            spread = spread_of(texts[code])
            if spread is not None:
                of_g, of_kg_sb = spread
                ends = (of_g.low, of_g.high, of_kg_sb.low, of_kg_sb.high)
                found[:, code] = (*ends, *g_per_kg_sb_of(texts[code]))
    return found
