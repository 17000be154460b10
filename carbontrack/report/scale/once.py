"""What a sum adds up of more records than fit into memory, so that no energy counts twice.

DuckDB finds the few rows that matter to others: repeated ids, parents and their children, and runs
of scope machine in the order of their times. The rules of `report.nesting` decide, over parts that
do not depend on each other: children with their parents, and stretches of time of a host.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from carbontrack.report.nesting import (
    ALL,
    UNKNOWN_MS,
    Columns,
    NotAdded,
    links_of,
    machine_shares,
    open_circles,
)
from carbontrack.report.parquet import import_pyarrow
from carbontrack.report.scale.engine import FEATURE, Engine
from carbontrack.report.scale.relation import RECORDS

_MOST_ROWS = 2**62
"""More than there can be; a limit of DuckDB has 63 bits."""
_FEW = 1_000_000
"""Links among which circles are looked for in memory."""


class Once:
    """Finds which records count, and with which share.

    Attributes:
        added: the rows that a sum adds up, as SQL; `share` is what counts of each.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._pa = import_pyarrow(FEATURE)
        self.added = f"(SELECT *, 1.0::DOUBLE AS share FROM {RECORDS})"

    def leave_out_repeats(self) -> int:
        """Take each record once, the finished one rather than its checkpoint; how many are left."""
        engine = self._engine
        engine.run(
            f"CREATE TABLE repeated AS SELECT rid FROM {RECORDS} GROUP BY rid HAVING count(*) > 1"
        )
        if not self._count("repeated"):
            return 0
        engine.run(
            "CREATE TABLE dropped AS SELECT seq FROM "
            f"(SELECT seq, record_id, recovered FROM {RECORDS} SEMI JOIN repeated USING (rid)) "
            "QUALIFY row_number() OVER (PARTITION BY record_id ORDER BY recovered, seq DESC) > 1"
        )
        dropped = self._count("dropped")
        if dropped:
            self.added = f"(FROM {self.added} ANTI JOIN dropped USING (seq))"
        return dropped

    def leave_out_the_rest(self) -> NotAdded:
        """Leave out what is held, and give rows that overlap their share; what that was."""
        not_covered = self._find_links()
        nested, nested_kwh = 0, None
        if self._count("held"):
            held = f"{self.added} SEMI JOIN held ON seq = held.child"
            nested, nested_kwh = self._engine.rows(
                f"SELECT count(*), fsum(energy_kwh) FROM {held}"
            )[0]
            self.added = f"(FROM {self.added} ANTI JOIN held ON seq = held.child)"
        return replace(
            self._share_overlaps(),
            nested=nested,
            nested_energy_kwh=nested_kwh,
            not_covered=not_covered,
        )

    def leave_out_all_but_last(self, count: int) -> NotAdded:
        """Count the last runs only, of those that are added up, as if there were no others."""
        engine = self._engine
        engine.run(
            f"CREATE TABLE last AS SELECT seq FROM {self.added} "
            f"ORDER BY start_ms DESC, seq DESC LIMIT {min(count, _MOST_ROWS)}"
        )
        engine.run("DROP TABLE shares")
        self.added = f"(SELECT *, 1.0::DOUBLE AS share FROM {RECORDS} SEMI JOIN last USING (seq))"
        return self._share_overlaps()

    def _share_overlaps(self) -> NotAdded:
        overlapping, hosts, kwh = self._find_shares()
        if overlapping:
            self.added = (
                f"(SELECT added.* REPLACE (coalesce(part, 1.0) AS share) FROM {self.added} added "
                "LEFT JOIN shares ON added.seq = shares.row)"
            )
        return NotAdded(
            overlapping=overlapping, overlapping_hosts=hosts, overlapping_energy_kwh=kwh
        )

    def _count(self, table: str) -> int:
        return int(self._engine.rows(f"SELECT count(*) FROM {table}")[0][0])

    # -- nested rows -----------------------------------------------------------------------

    def _find_links(self) -> int:
        """Fill the table `held` with the rows that are held; how many parents do not cover."""
        engine = self._engine
        engine.run("CREATE TABLE held (child BIGINT, parent BIGINT)")
        engine.run(f"CREATE TABLE named AS SELECT DISTINCT pid FROM {self.added} WHERE is_child")
        if not self._count("named"):
            return 0
        columns = "seq, rid, run, host, start_ms, end_ms"
        engine.run(
            f"CREATE TABLE parents AS SELECT pid AS key, {columns} FROM (SELECT {columns}, "
            f"unnest([rid, run]) AS pid FROM {self.added}) SEMI JOIN named USING (pid) ORDER BY key"
        )
        children = (
            f"SELECT pid, holds, {columns} FROM {self.added} WHERE is_child "
            "AND pid IN (SELECT key FROM parents) ORDER BY pid"
        )
        not_covered = 0
        for batch in engine.batches(children):
            links = self._links(batch)
            not_covered += int(links[2].sum())
            held = links[1]
            self._insert("held", child=links[0][0][held], parent=links[0][1][held])
        self._open_circles()
        return not_covered

    def _links(self, children: Any) -> tuple[tuple[Any, Any], Any, Any]:
        """The children and their parents, by seq; whether they are held; and not covered."""
        import numpy as np

        child = _arrays(children)
        first, last = child["pid"][0], child["pid"][-1]
        parent = _arrays(
            self._engine.table(
                f"SELECT * FROM parents WHERE key BETWEEN {first} AND {last} ORDER BY seq"
            )
        )
        none = np.zeros(len(child["seq"]), dtype="uint64")
        both = {n: np.concatenate((parent[n], child[n])) for n in ("seq", "host", *_SPAN)}
        zeros = np.zeros(len(parent["seq"]), dtype="uint64")
        links = links_of(
            Columns(
                record_id=np.concatenate((parent["key"], none)),
                run_id=np.concatenate((zeros, none)),
                parent_id=np.concatenate((zeros, child["pid"])),
                host=_small(both["host"]),
                holds=np.concatenate((zeros.astype("int8"), child["holds"])),
                start_ms=both["start_ms"],
                end_ms=both["end_ms"],
                is_machine=np.zeros(len(both["seq"]), dtype=bool),
            )
        )
        ends = both["seq"][links.children], both["seq"][links.parents]
        return ends, links.held, links.not_covered

    def _open_circles(self) -> None:
        """Add up the rows that hold each other in a circle: those that are parent and child."""
        import numpy as np

        engine, before = self._engine, self._count("held")
        inner = "held"
        for step in range(64):
            engine.run(
                f"CREATE TABLE inner_{step} AS SELECT child, parent FROM {inner} WHERE "
                f"child IN (SELECT parent FROM {inner}) AND parent IN (SELECT child FROM {inner})"
            )
            inner, count = f"inner_{step}", self._count(f"inner_{step}")
            if count == 0:
                return
            if count <= _FEW or count == before:
                break
            before = count
        found = _arrays(engine.table(f"SELECT child, parent FROM {inner}"))
        places, flat = np.unique(
            np.concatenate((found["child"], found["parent"])), return_inverse=True
        )
        children, parents = np.split(flat, 2)
        held = np.zeros(len(places), dtype=bool)
        held[children] = True
        open_circles(held, children, parents)
        opened = places[children[~held[children]]]
        if len(opened):
            engine.run("CREATE TABLE opened (child BIGINT)")
            self._insert("opened", child=opened)
            engine.run("DELETE FROM held WHERE child IN (SELECT child FROM opened)")

    # -- overlapping rows ------------------------------------------------------------------

    def _find_shares(self) -> tuple[int, int, float | None]:
        """Fill the table `shares`; how many rows overlap, on how many hosts, and their energy."""
        import numpy as np

        self._engine.run("CREATE TABLE shares (row BIGINT, part DOUBLE)")
        overlapping, hosts, kwh, known = 0, set(), 0.0, False
        for rows in self._stretches():
            shares = machine_shares(
                _columns_of_machines(rows), np.ones(len(rows["seq"]), dtype=bool)
            )
            some = shares < ALL
            if not some.any():
                continue
            self._insert("shares", row=rows["seq"][shares < 1.0], part=shares[shares < 1.0])
            overlapping += int(some.sum())
            hosts.update(rows["host"][some].tolist())
            excess = (rows["energy_kwh"] * (1.0 - shares))[some]
            known |= bool((~np.isnan(excess)).any())
            kwh += float(np.nansum(excess))
        return overlapping, len(hosts), kwh if known else None

    def _stretches(self) -> Iterator[dict[str, Any]]:
        """Rows of scope machine, in parts between which no row of a host is open."""
        import numpy as np

        query = (
            f"SELECT seq, run, host, start_ms, end_ms, energy_kwh FROM {self.added} "
            f"WHERE is_machine AND host >= 0 AND start_ms <> {UNKNOWN_MS} AND end_ms >= start_ms "
            "ORDER BY host, start_ms, seq"
        )
        kept: dict[str, Any] | None = None
        for batch in self._engine.batches(query):
            rows = _arrays(batch)
            if kept is not None:
                rows = {name: np.concatenate((kept[name], rows[name])) for name in rows}
            cut = _last_cut(rows)
            if cut:
                yield {name: column[:cut] for name, column in rows.items()}
            kept = {name: column[cut:] for name, column in rows.items()}
        if kept is not None:
            yield kept

    def _insert(self, table: str, **columns: Any) -> None:
        if len(next(iter(columns.values()))):
            self._engine.insert(table, self._pa.table(columns))


_SPAN = ("start_ms", "end_ms")


def _arrays(rows: Any) -> dict[str, Any]:
    """The columns of a table or a batch of Arrow; nan for unknown."""
    return {name: rows.column(name).to_numpy(zero_copy_only=False) for name in rows.schema.names}


def _small(hosts: Any) -> Any:
    """Hosts as small numbers; -1 stays -1."""
    import numpy as np

    codes = np.unique(hosts, return_inverse=True)[1]
    return np.where(hosts < 0, -1, codes)


def _columns_of_machines(rows: dict[str, Any]) -> Columns:
    import numpy as np

    count = len(rows["seq"])
    none = np.zeros(count, dtype="uint64")
    return Columns(
        record_id=none,
        run_id=rows["run"],
        parent_id=none,
        host=_small(rows["host"]),
        holds=none.astype("int8"),
        start_ms=rows["start_ms"],
        end_ms=rows["end_ms"],
        is_machine=np.ones(count, dtype=bool),
    )


def _last_cut(rows: dict[str, Any]) -> int:
    """The last place before which all rows have ended; 0 where there is none."""
    import numpy as np

    hosts = _small(rows["host"])  # in the order of the rows
    ends, rank = np.unique(rows["end_ms"], return_inverse=True)
    latest = np.maximum.accumulate(hosts * len(ends) + rank) - hosts * len(ends)
    other_host = hosts[1:] != hosts[:-1]
    cuts = np.flatnonzero(other_host | (rows["start_ms"][1:] > ends[np.maximum(latest, 0)][:-1]))
    return int(cuts[-1]) + 1 if len(cuts) else 0
