"""Budgets on tests: what the pytest plugin judges by, and how it tells it.

Floor 6, behind the one door `carbontrack.pytest_plugin`, which loads this package when a run asks
for it. `hooks` is where pytest meets the rest; everything else here knows no pytest.
"""
