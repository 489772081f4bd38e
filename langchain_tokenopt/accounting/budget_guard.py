"""Asks the budgets before a call, and books what it used after it."""

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import count
from typing import Any, Literal
from uuid import UUID, uuid4

from langchain_tokenopt.accounting.alert import Alert
from langchain_tokenopt.accounting.amounts import Amounts, BudgetStatus
from langchain_tokenopt.accounting.budget import Account, Budget, Hold
from langchain_tokenopt.accounting.budget_own import Debt, OwnAccounts
from langchain_tokenopt.accounting.budget_plan import Need, PlannedCall, Planner
from langchain_tokenopt.accounting.budget_room import room_of
from langchain_tokenopt.accounting.budget_store import BudgetStore, MemoryBudgets, Outcome
from langchain_tokenopt.accounting.budget_words import Warnings, refusal_text
from langchain_tokenopt.accounting.prices import GenaiPrices, PriceSource
from langchain_tokenopt.accounting.records import CallRecord
from langchain_tokenopt.calls import Room
from langchain_tokenopt.errors import BudgetExceededError, ConfigurationError, StoreError

_LOG = logging.getLogger(__name__)

_OUTPUT_TOKENS = 4_096
_REST_S = 5.0
_MOST_OWED = 100_000
_ONE = Amounts(calls=1)
_ONE_CALL = Need(most=_ONE, floor=_ONE, priced=True)
_ONE_CALL_UNPRICED = Need(most=_ONE, floor=_ONE, priced=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardCounts:
    """What a guard could not do as it should."""

    unpriced: int
    """Calls that a budget of dollars let through uncounted, since their price is unknown."""
    store_failures: int
    """Steps for which the store could not be asked: this process kept to the limits by itself."""
    owed: int
    """Bookings that wait for the store."""
    lost: int
    """Bookings given up: too many waited."""
    exceeded_holds: int
    """Calls that used more than was set aside for them: give them a `max_tokens`."""


class BudgetGuard:
    """Keeps model calls within budgets: asks before each call, books what it used.

    Before a call its most (counted input, and the cap on its output) is set aside on every account
    that it belongs to, in one step: calls at the same time cannot overspend together. After it the
    rest is given back; after an error or a hit of a cache, all of it. What a killed process had set
    aside is given back after `hold_s`, except for the input, which the provider may have billed.

    It is asked by `BudgetHandler(guard)` in any chain or graph, by `BudgetedChatModel` around a
    model, and by `BudgetMiddleware` in an agent; together they book a call once. A store that fails
    breaks no call: each process then keeps to the limits by itself, and tells the store when it is
    back.

    Args:
        budgets: All that a call must keep to.
        store: Where accounts are kept: memory, `SqliteBudgets` for the processes of a machine,
            `RedisBudgets` for many machines.
        prices: Where prices come from; by default the installed genai-prices snapshot.
        output_tokens: Set aside for a call without a cap of its own (`max_tokens`). Such a call can
            use more, which is counted; only a cap makes the limit hard.
        unpriced: Whether a budget of dollars lets calls without a known price through (counted in
            `counts()`, and logged once) or refuses them.
        hold_s: After how many seconds without an end a call is given up.
        alerts: Told once when an account passes its budget's `warn_at`.
        clock: The time, aware, for tests.

    >>> from langchain_tokenopt.accounting import BudgetHandler
    >>> from langchain_tokenopt.testing import ScriptedModel
    >>> guard = BudgetGuard([Budget("day", calls=1, every="day")])
    >>> model = ScriptedModel(["four"])
    >>> model.invoke("2 + 2?", config={"callbacks": [BudgetHandler(guard)]}).text
    'four'
    >>> guard.statuses()[0].spent.calls
    1
    """

    def __init__(
        self,
        budgets: Sequence[Budget],
        *,
        store: BudgetStore | None = None,
        prices: PriceSource | None = None,
        output_tokens: int = _OUTPUT_TOKENS,
        unpriced: Literal["allow", "refuse"] = "allow",
        hold_s: float = 900.0,
        alerts: Sequence[Callable[[Alert], None]] = (),
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        names = [budget.name for budget in budgets]
        if not names or len(set(names)) < len(names):
            message = f"expected budgets of different names, got {names}"
            raise ConfigurationError(message)
        if output_tokens < 0 or hold_s <= 0:
            message = (
                "output_tokens must be 0 or more and hold_s more than 0, "
                f"got {output_tokens} and {hold_s}"
            )
            raise ConfigurationError(message)
        if unpriced not in ("allow", "refuse"):
            raise ConfigurationError(f"unpriced is 'allow' or 'refuse', got {unpriced!r}")
        self._budgets = tuple(budgets)
        self._store: BudgetStore = store or MemoryBudgets()
        self.prices: PriceSource = prices or GenaiPrices()
        """Where prices come from."""
        counts_dollars = any(budget.dollars is not None for budget in budgets)
        counted = counts_dollars or any(budget.tokens is not None for budget in budgets)
        self._planner = (
            Planner(prices=self.prices, output_tokens=output_tokens, dollars=counts_dollars)
            if counted
            else None  # counting tokens takes most of the time
        )
        self._refuses_unpriced = unpriced == "refuse"
        self._hold = timedelta(seconds=hold_s)
        self._warnings = Warnings(self._budgets, alerts)
        self._clock = clock
        self._lock = threading.Lock()
        self._names = count()
        self._prefix = uuid4().hex
        self._open: set[UUID] = set()
        self._own = OwnAccounts()
        self._owed: deque[Debt] = deque()
        self._rests_until: datetime | None = None
        self._paying = threading.Lock()
        self._giving_back: set[asyncio.Task[None]] = set()
        self._tally = {"unpriced": 0, "store": 0, "lost": 0, "exceeded": 0}

    @property
    def blocks(self) -> bool:
        """Whether the store waits for a disk or a network."""
        return self._store.blocks

    def claim(self, run_id: UUID) -> bool:
        """Return whether nobody has booked this run yet; who gets `True` must `disclaim` it."""
        with self._lock:
            if run_id in self._open:
                return False
            self._open.add(run_id)
            return True

    def disclaim(self, run_id: UUID) -> None:
        """Say that a run is over."""
        with self._lock:
            self._open.discard(run_id)

    def reserve(self, call: PlannedCall) -> Hold:
        """Set aside the most that a call may use.

        Raises:
            BudgetExceededError: An account has not enough left; the call must not be made.
        """
        need = self._need(call)
        return self.reserve_amounts(need.most, need.floor, metadata=call.metadata)

    async def areserve(self, call: PlannedCall) -> Hold:
        """Do what `reserve` does without blocking the event loop."""
        need = self._need(call)
        now = self._clock()
        hold = self._new_hold(need.most, need.floor, call.metadata, now)
        outcome = None
        if self._may_ask(now):
            try:
                await self._apay(now)
                outcome = await self._areserve(hold, now)
            except StoreError as error:
                self._store_failed(error, now)
        return self._granted(hold, outcome, now)

    async def _areserve(self, hold: Hold, now: datetime) -> Outcome:
        if not self._store.blocks:
            return await self._store.areserve(hold, now=now)
        asked = asyncio.ensure_future(self._store.areserve(hold, now=now))
        try:
            return await asyncio.shield(asked)
        except asyncio.CancelledError:
            asked.add_done_callback(lambda _: self._give_back(asked, hold))
            raise

    def _give_back(self, asked: "asyncio.Future[Outcome]", hold: Hold) -> None:
        """Settle what was set aside for a call that was cancelled meanwhile."""
        if asked.cancelled() or asked.exception() is not None:
            return
        task = asyncio.get_running_loop().create_task(self.asettle(hold, Amounts()))
        self._giving_back.add(task)
        task.add_done_callback(self._giving_back.discard)

    def reserve_amounts(
        self, most: Amounts, floor: Amounts | None = None, *, metadata: Mapping[str, Any]
    ) -> Hold:
        """Set amounts aside for anything else that spends; `settle` the hold when it is over.

        Raises:
            BudgetExceededError: An account has not enough left.
        """
        now = self._clock()
        hold = self._new_hold(most, floor or Amounts(), metadata, now)
        outcome = None
        if self._may_ask(now):
            try:
                self._pay(now)
                outcome = self._store.reserve(hold, now=now)
            except StoreError as error:
                self._store_failed(error, now)
        return self._granted(hold, outcome, now)

    def settle(self, hold: Hold, spent: Amounts) -> None:
        """Book what a call used instead of what was set aside; never raises."""
        if self._own.settles(hold, spent):
            self._owe(Debt(hold, spent, charged=True))
            return
        try:
            self._store.settle(hold, spent)
        except StoreError as error:
            self._store_failed(error, self._clock())
            self._owe(Debt(hold, spent, charged=False))

    async def asettle(self, hold: Hold, spent: Amounts) -> None:
        """Do what `settle` does without blocking the event loop."""
        if self._own.settles(hold, spent):
            self._owe(Debt(hold, spent, charged=True))
            return
        try:
            await self._store.asettle(hold, spent)
        except StoreError as error:
            self._store_failed(error, self._clock())
            self._owe(Debt(hold, spent, charged=False))

    def spent_by(self, record: CallRecord, hold: Hold) -> Amounts:
        """Return what a finished call used, as budgets count it."""
        if record.kind == "cache_hit":
            return Amounts()
        if record.kind == "error" and not record.usage.total_tokens:
            return Amounts()
        spent = Amounts(
            tokens=record.usage.total_tokens, calls=1, dollars=record.cost or Decimal(0)
        )
        if spent.tokens > hold.amounts.tokens and self._planner is not None:
            self._count("exceeded")
        return spent

    def room(self, metadata: Mapping[str, Any]) -> Room:
        """Return what is left for a call with this metadata; asks the store, as `statuses` does."""
        now = self._clock()
        accounts = [budget.account(metadata, now=now) for budget in self._budgets]
        return room_of(accounts, self.statuses())

    def grant(self, status: BudgetStatus, more: Amounts) -> None:
        """Allow an account more than its limits, until its window ends.

        Raises:
            ConfigurationError: No budget has this name.
            StoreError: The store cannot be asked now.
        """
        budget = next((budget for budget in self._budgets if budget.name == status.name), None)
        if budget is None:
            known = ", ".join(budget.name for budget in self._budgets)
            raise ConfigurationError(f"no budget {status.name!r}, there are: {known}")
        account = Account(
            name=status.name,
            key=status.key,
            window=status.window,
            limits=budget.limits,
            resets_at=status.resets_at,
            per=budget.per,
        )
        now = self._clock()
        self._store.grant(account, more, now=now)

    def statuses(self) -> tuple[BudgetStatus, ...]:
        """Return how every account stands, with those of other processes in the same store.

        Raises:
            StoreError: The store cannot be asked now.
        """
        return self._store.statuses()

    def counts(self) -> GuardCounts:
        """Return what could not be done as it should."""
        with self._lock:
            return GuardCounts(
                unpriced=self._tally["unpriced"],
                store_failures=self._tally["store"],
                owed=len(self._owed),
                lost=self._tally["lost"],
                exceeded_holds=self._tally["exceeded"],
            )

    def _need(self, call: PlannedCall) -> Need:
        if self._planner is None:
            return _ONE_CALL
        try:
            need = self._planner.need(call, at=self._clock())
        except Exception as error:  # noqa: BLE001 - a broken price table must not break the call
            _LOG.debug("the need of a call could not be told: %r", error)
            need = _ONE_CALL_UNPRICED
        if not need.priced:
            if self._refuses_unpriced:
                message = (
                    f"the price of {call.model!r} is unknown, so a budget of dollars cannot count "
                    "it; give its price in an override file, or allow it with unpriced='allow'"
                )
                raise BudgetExceededError(message, status=None, needed=need.most)
            if self._count("unpriced") == 1:
                _LOG.warning(
                    "the price of %r is unknown: budgets of dollars do not count it", call.model
                )
        return need

    def _new_hold(
        self, most: Amounts, floor: Amounts, metadata: Mapping[str, Any], now: datetime
    ) -> Hold:
        return Hold(
            id=f"{self._prefix}-{next(self._names)}",
            accounts=tuple(budget.account(metadata, now=now) for budget in self._budgets),
            amounts=most,
            floor=floor,
            expires_at=now + self._hold,
        )

    def _granted(self, hold: Hold, outcome: Outcome | None, now: datetime) -> Hold:
        if outcome is None:
            outcome = self._own.reserve(hold, now=now)
        elif self._store.blocks:
            self._own.remember(hold.accounts, outcome.standing)
        if outcome.refused_by is not None:
            raise BudgetExceededError(
                refusal_text(hold, outcome.refused_by),
                status=outcome.refused_by,
                needed=hold.amounts,
            )
        self._warnings.look(hold, outcome.standing, now=now)
        return hold

    def _may_ask(self, now: datetime) -> bool:
        return self._rests_until is None or now >= self._rests_until

    def _store_failed(self, error: StoreError, now: datetime) -> None:
        self._rests_until = now + timedelta(seconds=_REST_S)
        if self._count("store") == 1:
            _LOG.warning(
                "budgets cannot be asked, this process keeps to the limits by itself: %s", error
            )

    def _owe(self, debt: "Debt") -> None:
        with self._lock:
            self._owed.append(debt)
            if len(self._owed) > _MOST_OWED:
                self._owed.popleft()
                self._tally["lost"] += 1

    def _pay(self, now: datetime) -> None:
        """Book what was used while the store could not be asked; the others wait for that."""
        if not self._owed and self._rests_until is None:
            return
        with self._paying:
            if not self._may_ask(now):  # it failed again while this waited
                raise StoreError("the store of budgets has just failed")
            while (debt := self._next_owed()) is not None:
                try:
                    if debt.charged:
                        self._store.charge(debt.hold.accounts, debt.spent, now=now)
                    else:
                        self._store.settle(debt.hold, debt.spent)
                except StoreError:
                    with self._lock:
                        self._owed.appendleft(debt)
                    self._rests_until = now + timedelta(seconds=_REST_S)
                    raise
            if self._rests_until is not None:
                self._rests_until = None
                self._own.forget()

    async def _apay(self, now: datetime) -> None:
        if self._owed or self._rests_until is not None:
            await asyncio.to_thread(self._pay, now)

    def _next_owed(self) -> "Debt | None":
        with self._lock:
            return self._owed.popleft() if self._owed else None

    def _count(self, what: str) -> int:
        with self._lock:
            self._tally[what] += 1
            return self._tally[what]
