"""A fixed amount of work for one core or two, the same in every tool's environment."""

import multiprocessing
import time
from multiprocessing.connection import Connection


def work(rounds: int) -> float:
    """Plain Python: arithmetic, lists, a dictionary, a string; returns how long it took."""
    started, total = time.perf_counter(), 0
    for number in range(rounds):
        row = [number * k & 0xFFFF for k in range(50)]
        total += sum(sorted(row)) + len(str(total)) + {k: k for k in row}[row[0]]
    return time.perf_counter() - started


def serve(orders: Connection) -> None:
    """Work as often as is asked for."""
    while True:
        orders.send(work(orders.recv()))


def helpers(count: int) -> list[Connection]:
    """So many processes that work when told to; they end with this one."""
    context, ends = multiprocessing.get_context("fork"), []
    for _ in range(count):
        ours, theirs = context.Pipe()
        context.Process(target=serve, args=(theirs,), daemon=True).start()
        ends.append(ours)
    return ends


def together(rounds: int, others: list[Connection], *, here: bool) -> float:
    """The work in all of these at once, and in this thread if `here`; the longest of the times."""
    for other in others:
        other.send(rounds)
    ours = [work(rounds)] if here else []
    return max(ours + [other.recv() for other in others])


def rounds_for(length_s: float, cores: int) -> int:
    """So much work that it takes about this long here."""
    others = helpers(cores - 1)
    together(2000, others, here=True)
    return max(1, int(10_000 * length_s / together(10_000, others, here=True)))
