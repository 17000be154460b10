"""Budgets: a limit in grams of CO2e or joules, its check of a record, and its guard on a span.

A budget on an open span is evaluated at the sampler's ticks and when spans open and close. Warnings
are logged by the thread that finds the excess. The exception or call that the program asked for
happens only in the program's own threads: where a span inside is opened or closed by `with`, at the
end of the span itself, and in `check`. A budget on a decorated function is checked when a row is
written.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Literal, Protocol

from carbontrack.errors import BudgetExceeded, ConfigError
from carbontrack.record import Record
from carbontrack.sampling.sampler import Sampler
from carbontrack.system.interrupts import pass_on
from carbontrack.units import JOULES_PER_KWH, Quantity, parse_quantity
from carbontrack.values import Value, replace

Outcome = Literal["within", "over", "inconclusive"]


class Verdict(Value):
    """The result of checking a record; amounts are in the limit's unit, grams or joules.

    Attributes:
        outcome: "over" if even the lower bound exceeds the limit; "within" if the best estimate
            does not; "inconclusive" if only the estimate does, or the amount is unknown.
        limit: the allowed amount.
        used: the best estimate; None where it is unknown.
        low, high: the interval around it.
    """

    outcome: Outcome
    limit: Quantity
    used: float | None = None
    low: float | None = None
    high: float | None = None

    @property
    def amounts(self) -> str:
        """Amount used and limit: "6.1 mg CO2e of 5.0 mg CO2e"."""
        used = "unknown use" if self.used is None else Quantity(self.limit.kind, self.used).text
        return f"{used} of {self.limit.text}"

    @property
    def text(self) -> str:
        """The verdict as the end of a sentence: "over budget: 6.1 mg CO2e of 5.0 mg CO2e"."""
        phrase = {"within": "within", "over": "over", "inconclusive": "possibly over"}
        return f"{phrase[self.outcome]} budget: {self.amounts}"


class Budget(Value):
    """A limit on emissions or energy: `Budget("5 mg")`, `Budget("0.4 kWh")`.

    Attributes:
        limit: the largest allowed amount, grams of CO2e or joules.

    Raises:
        QuantityError: the text is not a quantity.
    """

    limit: Quantity

    def __init__(self, limit: str | Quantity) -> None:
        found = limit if isinstance(limit, Quantity) else parse_quantity(limit)
        object.__setattr__(self, "limit", found)

    @classmethod
    def of(cls, text: str) -> Budget:
        """A budget from text, such as "5 mg", "2 kg CO2e", "120 J" or "0.4 kWh".

        Raises:
            QuantityError: the text is not a quantity.
        """
        return cls(parse_quantity(text))

    def check(self, record: Record) -> Verdict:
        """Check a record; it is over the budget only if its lower bound is."""
        if self.limit.kind == "emissions":
            factor = 1.0
            columns = record.emissions_g, record.emissions_low_g, record.emissions_high_g
        else:
            factor = JOULES_PER_KWH
            columns = record.energy_kwh, record.energy_low_kwh, record.energy_high_kwh
        used, low, high = (None if column is None else column * factor for column in columns)
        return Verdict(_outcome(self.limit.amount, used, low), self.limit, used, low, high)


def _outcome(limit: float, used: float | None, low: float | None) -> Outcome:
    if used is None:
        return "inconclusive"
    if (used if low is None else low) > limit:
        return "over"
    return "within" if used <= limit else "inconclusive"


OnExceed = Literal["warn", "raise"] | Callable[["Verdict"], object]
"""The action when a budget is exceeded: a warning, an exception, or a call of a function."""

NEAR = 0.8
"""The share of a budget above which a warning is logged."""
CHECK_PERIOD_S = 0.1
"""The shortest time between two evaluations at span edges; one costs more than a short span."""

_log = logging.getLogger("carbontrack")


def checked_on_exceed(on_exceed: object, *, has_budget: bool) -> None:
    """Check the argument `on_exceed`.

    Raises:
        ConfigError: it is neither a known word nor callable, or there is no budget to exceed.
    """
    if on_exceed not in ("warn", "raise") and not callable(on_exceed):
        raise ConfigError(f"on_exceed must be 'warn', 'raise' or callable, not {on_exceed!r}")
    if not has_budget:
        raise ConfigError("on_exceed needs a budget, such as budget='2 kg'")


class GuardedSpan(Protocol):
    """The part of a span that a guard needs; the span's module imports this one."""

    name: str

    @property
    def is_open(self) -> bool:
        """Whether the span is being counted, in this process."""
        ...

    @property
    def record(self) -> Record | None:
        """The final record."""
        ...

    def snapshot(self) -> Record:
        """The record so far."""
        ...


class BudgetGuard:
    """A budget on one span.

    Args:
        budget: the limit.
        on_exceed: the action when the verdict is "over".
        warn: called with a message once when 80 % are used, and once when the limit is exceeded.
    """

    def __init__(
        self,
        budget: Budget,
        on_exceed: OnExceed = "warn",
        *,
        warn: Callable[[str], object] = _log.warning,
    ) -> None:
        self.budget = budget
        self.exceeded: Verdict | None = None
        """The first verdict that was "over"."""
        self._on_exceed = on_exceed
        self._warn = warn
        self._pending_warnings = {"near": 1, "maybe": 2, "over": 3}
        self._raised = threading.local()
        self._pending_calls = [on_exceed] if callable(on_exceed) else []
        self.outer: BudgetGuard | None = None
        """The guard of an enclosing span."""
        self._span: Callable[[], GuardedSpan | None] | None = None
        """A weak reference, as the span refers to its guard."""
        self._earlier: list[Record] = []
        self._sampler: Sampler | None = None
        self._checked_s = float("-inf")

    def begin(self, span: GuardedSpan, outer: BudgetGuard | None, sampler: Sampler) -> None:
        """Guard a span that opens; `outer` guards an enclosing one."""
        self._span, self.outer, self._sampler = weakref.ref(span), outer, sampler
        self._checked_s = sampler.clock.monotonic_s()
        with sampler.lock:
            sampler.tick_listeners.add(self)

    @property
    def span(self) -> GuardedSpan | None:
        """The span that is guarded, once it has been opened."""
        return None if self._span is None else self._span()

    def guards(self, span: object) -> bool:
        """Whether this is the guard of `span`, not of one around it."""
        return self.span is span

    def after_tick(self, now_s: float) -> None:  # noqa: ARG002 - the protocol's
        """Evaluate on the sampler's thread; `enforce` acts later, in the program's threads."""
        span = self.span
        if span is not None and span.is_open:
            self.evaluate()
        elif self._sampler is not None:
            with self._sampler.lock:
                self._sampler.tick_listeners.remove(self)

    def fall_asleep(self) -> None:
        """Nothing is open any more, so there is nothing to guard."""
        if self._sampler is not None:
            with self._sampler.lock:
                self._sampler.tick_listeners.remove(self)

    def evaluate(self) -> Verdict | None:
        """Check the span so far; None if there is nothing to check."""
        span, sampler = self.span, self._sampler
        if span is None or sampler is None or not (span.is_open or span.record):
            return None
        self._checked_s = sampler.clock.monotonic_s()
        return self._with_warning(span.name, self._check(span.snapshot()))

    def add_earlier(self, record: Record) -> None:
        """Also count what the span used until its parent ended, which is in another row."""
        self._earlier.append(record)

    def _check(self, record: Record) -> Verdict:
        for earlier in self._earlier:
            sums = {name: _sum(getattr(record, name), getattr(earlier, name)) for name in _AMOUNTS}
            record = replace(record, **sums)
        return self.budget.check(record)

    def mark_exceeded(self, record: Record) -> Record:
        """Set the status of a finished record that is over the budget; "error" stays "error"."""
        verdict = self._with_warning(record.name, self._check(record))
        if verdict.outcome != "over" or record.status != "ok":
            return record
        return replace(record, status="budget", error=verdict.text)

    def _with_warning(self, name: str, verdict: Verdict) -> Verdict:
        if verdict.outcome == "over" and self.exceeded is None:
            self.exceeded = verdict
        level = _level(verdict)
        if level is not None:
            rank = self._pending_warnings.pop(level, None)  # only one thread gets it
            if rank is not None:
                ranks = list(self._pending_warnings.items())
                for lower in [one for one, its in ranks if its < rank]:
                    self._pending_warnings.pop(lower, None)
                self._warn(_sentence(name, level, verdict))
        return verdict

    # -- in the program's threads --------------------------------------------------------------

    def enforce(self, error: BaseException | None = None) -> None:
        """Act if the budget of this span or of an enclosing one is exceeded.

        Args:
            error: the exception that is propagating; it is never replaced by another one.

        Raises:
            BudgetExceeded: a budget is exceeded, and this thread has not raised it yet.
        """
        for guard in self._chain():
            guard._evaluate_if_due()
        for guard in self._chain():
            if guard.exceeded is not None:
                guard._act(guard.exceeded, error)

    def check(self) -> Verdict | None:
        """Evaluate this budget and the enclosing ones now; raise even if this thread has before.

        Raises:
            BudgetExceeded: a budget whose `on_exceed` is "raise" is exceeded.
        """
        found = self.evaluate()
        for guard in self._chain():
            if guard is not self:
                guard.evaluate()
            guard._raised.here = False
        self.enforce()
        return found

    def _chain(self) -> Iterator[BudgetGuard]:
        guard: BudgetGuard | None = self
        while guard is not None:
            yield guard
            guard = guard.outer

    def _evaluate_if_due(self) -> None:
        span, sampler = self.span, self._sampler
        if span is None or sampler is None or self.exceeded is not None:
            return
        if not span.is_open or sampler.clock.monotonic_s() - self._checked_s >= CHECK_PERIOD_S:
            self.evaluate()

    def _act(self, verdict: Verdict, error: BaseException | None) -> None:
        if self._pending_calls:
            self._call(verdict, error)
        raised = getattr(self._raised, "here", False)
        if self._on_exceed == "raise" and error is None and not raised:
            self._raised.here = True
            name = "" if self.span is None else f"{self.span.name} is "
            raise BudgetExceeded(f"{name}{verdict.text}", verdict)

    def _call(self, verdict: Verdict, error: BaseException | None) -> None:
        try:
            call = self._pending_calls.pop()
        except IndexError:  # another thread was faster
            return
        try:
            call(verdict)
        except Exception as failure:
            pass_on(failure)
            if error is None:  # the program stops itself this way
                raise
            _log.exception("on_exceed failed while %r was propagating", error)


_AMOUNTS = (
    *("energy_kwh", "energy_low_kwh", "energy_high_kwh"),
    *("emissions_g", "emissions_low_g", "emissions_high_g"),
)


def _sum(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one + other


def _level(verdict: Verdict) -> str | None:
    if verdict.used is None:
        return None
    if verdict.outcome == "over":
        return "over"
    if verdict.used > verdict.limit.amount:
        return "maybe"
    return "near" if verdict.limit.amount and verdict.used >= NEAR * verdict.limit.amount else None


def _sentence(name: str, level: str, verdict: Verdict) -> str:
    if level == "near":
        assert verdict.used is not None
        share = 100.0 * verdict.used / verdict.limit.amount
        return f"{name} has used {share:.0f} % of its budget: {verdict.amounts}"
    return f"{name} is {verdict.text}"


def budget_check_of(budget: Budget) -> Callable[[Record], Record]:
    """Return a check that marks rows over the budget and logs a warning for each.

    "error" stays "error".

    The budget is that of one call. A row that sums several calls is checked by their mean.
    """

    def check(record: Record) -> Record:
        limit, calls = budget.limit, record.calls or 1
        verdict = Budget(replace(limit, amount=limit.amount * calls)).check(record)
        if verdict.outcome != "over":
            return record
        _log.warning("%s is %s", record.name, verdict.text)
        if record.status != "ok":
            return record
        return replace(record, status="budget", error=verdict.text)

    return check
