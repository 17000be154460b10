"""Reports of more records than fit into memory: DuckDB finds what counts once, and how much of it.

What the rules are stays in `report.nesting` and `report.totals`, which get the rows in parts.
"""
