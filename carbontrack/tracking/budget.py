"""Budgets: a limit in grams of CO2e or in joules, a record checked by it, and a guard on a span.

A budget on an open span is looked at by the sampler's tick and by the edges of spans. What has been
found is logged by whoever finds it; what the program asked for, an exception or a call, happens in
its own threads only: where a span inside is opened or closed by `with`, at the end of the span
itself, and in `check`. A budget on a decorated function is checked when a row is written.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from carbontrack.errors import BudgetExceeded, ConfigError
from carbontrack.record import Record
from carbontrack.sampling.sampler import Sampler
from carbontrack.units import JOULES_PER_KWH, Quantity, parse_quantity

Outcome = Literal["within", "over", "inconclusive"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a budget says of a record; amounts are in the limit's unit, grams or joules.

    Attributes:
        outcome: "over" where even the lower bound is over the limit; "within" where the best
            estimate is not; "inconclusive" where only the estimate is, or nothing is known.
        limit: what was allowed.
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
        """Used and limit: "6.1 mg CO2e of 5.0 mg CO2e"."""
        used = "unknown use" if self.used is None else Quantity(self.limit.kind, self.used).text
        return f"{used} of {self.limit.text}"

    @property
    def text(self) -> str:
        """The verdict as a sentence's end: "over budget: 6.1 mg CO2e of 5.0 mg CO2e"."""
        phrase = {"within": "within", "over": "over", "inconclusive": "not surely within"}
        return f"{phrase[self.outcome]} budget: {self.amounts}"


@dataclass(frozen=True, slots=True, init=False)
class Budget:
    """A limit on emissions or energy: `Budget("5 mg")`, `Budget("0.4 kWh")`.

    Attributes:
        limit: the most that is allowed; grams of CO2e or joules.

    Raises:
        QuantityError: the text is no quantity.
    """

    limit: Quantity

    def __init__(self, limit: str | Quantity) -> None:
        found = limit if isinstance(limit, Quantity) else parse_quantity(limit)
        object.__setattr__(self, "limit", found)

    @classmethod
    def of(cls, text: str) -> Budget:
        """A budget from text, such as "5 mg", "2 kg CO2e", "120 J" or "0.4 kWh".

        Raises:
            QuantityError: the text is no quantity.
        """
        return cls(parse_quantity(text))

    def check(self, record: Record) -> Verdict:
        """Judge a record; nothing is over the budget before the lower bound is."""
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
"""What happens when a budget is exceeded: a warning, an exception, or a call of the program's."""

NEAR = 0.8
"""The part of a budget at which a warning is due."""
CHECK_PERIOD_S = 0.1
"""An edge looks no sooner than this after the last look: to look costs more than a short span."""

_log = logging.getLogger("carbontrack")


def checked_on_exceed(on_exceed: object, *, has_budget: bool) -> None:
    """Refuse what cannot be done.

    Raises:
        ConfigError: it is neither a known word nor callable, or there is no budget to exceed.
    """
    if on_exceed not in ("warn", "raise") and not callable(on_exceed):
        raise ConfigError(f"on_exceed must be 'warn', 'raise' or callable, not {on_exceed!r}")
    if not has_budget:
        raise ConfigError("on_exceed needs a budget, such as budget='2 kg'")


class GuardedSpan(Protocol):
    """What a guard must see of its span, which stands above it."""

    name: str

    @property
    def is_open(self) -> bool:
        """Whether it is being counted, in this process."""
        ...

    @property
    def record(self) -> Record | None:
        """The finished record."""
        ...

    def snapshot(self) -> Record:
        """The record so far."""
        ...


class BudgetGuard:
    """A budget on one span.

    Args:
        budget: the limit.
        on_exceed: what happens where it is surely exceeded.
        say: told in a sentence when 80 % are used, and when the limit is passed; once each.
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
        """The first verdict that was "over"; it stays."""
        self._on_exceed = on_exceed
        self._warn = warn
        self._pending_warnings = {"near": 1, "maybe": 2, "over": 3}
        self._raised = threading.local()
        self._pending_calls = [on_exceed] if callable(on_exceed) else []
        self._outer: BudgetGuard | None = None
        self._span: GuardedSpan | None = None
        self._sampler: Sampler | None = None
        self._checked_s = float("-inf")

    def begin(self, span: GuardedSpan, outer: BudgetGuard | None, sampler: Sampler) -> None:
        """The span opens; `outer` guards a span around it."""
        self._span, self._outer, self._sampler = span, outer, sampler
        self._checked_s = sampler.clock.monotonic_s()
        with sampler.lock:
            sampler.tick_listeners.add(self)

    def after_tick(self, now_s: float) -> None:  # noqa: ARG002 - the protocol's
        """Look, on the sampler's thread; what is to happen waits for the program's next edge."""
        if self._span is not None and self._span.is_open:
            self.evaluate()
        elif self._sampler is not None:
            with self._sampler.lock:
                self._sampler.tick_listeners.discard(self)

    def evaluate(self) -> Verdict | None:
        """Judge what has been used so far; None where nothing is being counted."""
        span, sampler = self._span, self._sampler
        if span is None or sampler is None or not (span.is_open or span.record):
            return None
        self._checked_s = sampler.clock.monotonic_s()
        return self._with_warning(span.name, self.budget.check(span.snapshot()))

    def mark_exceeded(self, record: Record) -> Record:
        """Mark a finished record that is over the budget; a failure keeps its own status."""
        verdict = self._with_warning(record.name, self.budget.check(record))
        if verdict.outcome != "over" or record.status != "ok":
            return record
        return replace(record, status="budget", error=verdict.text)

    def _with_warning(self, name: str, verdict: Verdict) -> Verdict:
        if verdict.outcome == "over" and self.exceeded is None:
            self.exceeded = verdict
        level = _level(verdict)
        if level is not None:
            rank = self._pending_warnings.pop(level, None)  # one thread only gets it
            if rank is not None:
                ranks = list(self._pending_warnings.items())
                for lower in [one for one, its in ranks if its < rank]:
                    self._pending_warnings.pop(lower, None)
                self._warn(_sentence(name, level, verdict))
        return verdict

    # -- in the program's threads --------------------------------------------------------------

    def enforce(self, error: BaseException | None = None) -> None:
        """Do what was asked for, if a budget of this span or of one around it is exceeded.

        Args:
            error: what the span is being left with; nothing is raised over it.

        Raises:
            BudgetExceeded: the budget is exceeded, and this thread has not been told yet.
        """
        for guard in self._chain():
            guard._evaluate_if_due()
        for guard in self._chain():
            if guard.exceeded is not None:
                guard._act(guard.exceeded, error)

    def check(self) -> Verdict | None:
        """Look now, at this budget and those around; act even if this thread has been told.

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
            guard = guard._outer

    def _evaluate_if_due(self) -> None:
        span, sampler = self._span, self._sampler
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
            name = "" if self._span is None else f"{self._span.name} is "
            raise BudgetExceeded(f"{name}{verdict.text}", verdict)

    def _call(self, verdict: Verdict, error: BaseException | None) -> None:
        try:
            call = self._pending_calls.pop()
        except IndexError:  # another thread was faster
            return
        try:
            call(verdict)
        except Exception:
            if error is None:  # the program's own way to stop itself
                raise
            _log.exception("on_exceed failed while %r was on its way", error)


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
    """Mark rows that are over the budget, and warn of each; failures keep their own status.

    The budget is that of one call. A row that sums many is judged by all of them together, which
    is by their mean.
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
