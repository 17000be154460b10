"""Every table says how old it is."""

from carbontrack.grid import rows
from carbontrack.grid.tables import editions


def test_every_table_of_figures_tells_its_years():
    """A table with a column of years is among them, with all its rows."""
    told = {edition.table: edition for edition in editions()}

    assert {"intensity", "intensity_direct", "intensity_marginal", "water"} <= set(told)
    for name, edition in told.items():
        assert edition.oldest <= edition.most <= edition.newest <= 2026
        assert edition.rows == len(list(rows.rows(name)))


def test_the_default_table_is_of_recent_years():
    """Most figures are no older than three years before the newest."""
    (edition,) = [edition for edition in editions() if edition.table == "intensity"]

    assert edition.newest - edition.most <= 3
