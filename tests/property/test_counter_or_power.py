"""A board whose counter and power fail, stand still and come back in any order."""

from contextlib import suppress

from hypothesis import given
from hypothesis import strategies as st

from carbontrack.errors import MeterGone, MeterReadError
from carbontrack.meters.counter_or_power import CounterOrPower

TICK_S = 0.1
CAP_W = 1000.0

pieces = st.lists(
    st.tuples(
        st.sampled_from(("both", "both", "no counter", "no power", "never a counter", "still")),
        st.integers(1, 900),  # ticks
        st.integers(5, 900),  # watts
    ),
    min_size=1,
    max_size=8,
)


class Board:
    """The truth, and what is shown of it."""

    def __init__(self):
        self.true_j = self.shown_j = 0.0

    def pass_on(self, state, watts):
        self.true_j += watts * TICK_S
        if state != "still":
            self.shown_j += watts * TICK_S

    def counter(self, state):
        if state == "no counter":
            return MeterReadError("not ready")
        return MeterGone("not supported") if state == "never a counter" else self.shown_j

    def power(self, state, watts):
        return MeterReadError("unknown") if state == "no power" else float(watts)


def follow(program, *, counter_first):
    """Run a program to its end; the source, the truth, and every count that was given."""
    board, counts = Board(), []
    source = CounterOrPower(CAP_W, 0.2, counter_first=counter_first, retry_s=0.0)
    now_s = 100.0
    for state, ticks, watts in program:
        for _ in range(ticks):
            counter = board.counter(state) if source.asks_counter else None
            asks_power = source.asks_power or not isinstance(counter, float)
            power = board.power(state, watts) if asks_power else None
            with suppress(MeterReadError, MeterGone):
                counts.append(source.advance(counter, power, now_s))
            now_s += TICK_S
            board.pass_on(state, watts)
    return source, board, counts


@given(pieces, st.booleans())
def test_no_joule_is_counted_twice_and_no_count_falls(program, counter_first):
    """Whatever fails, and in whichever order: each second counts once at most.

    The power of a second holds until the next reading, so at each change of a piece a tick may be
    taken at the wrong one; and a counter is at most three seconds behind when the power takes over.
    """
    _, board, counts = follow(program, counter_first=counter_first)
    assert counts == sorted(counts)
    slack_j = len(program) * CAP_W * (TICK_S * 3 + 1.5)
    assert not counts or counts[-1] <= board.true_j + slack_j


@given(pieces.map(lambda some: [piece for piece in some if piece[0] != "no power"]), st.booleans())
def test_where_the_power_always_answers_no_second_is_lost(program, counter_first):
    """The counter may do what it likes."""
    program = [*program, ("both", 50, 300)]
    _, board, counts = follow(program, counter_first=counter_first)
    slack_j = len(program) * CAP_W * (TICK_S * 3 + 1.5) + CAP_W * TICK_S
    assert counts[-1] >= board.true_j - slack_j
