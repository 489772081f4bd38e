"""Asks one deployment after the other until one answers."""

import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator, Sequence
from contextlib import aclosing, closing
from typing import Any

from langchain_core.outputs import ChatGenerationChunk

from langchain_tokenopt.errors import BudgetExceededError
from langchain_tokenopt.routing.balance_audience import Asked, AsyncSide, Side
from langchain_tokenopt.routing.balance_board import Board, Choice, Turn
from langchain_tokenopt.routing.balance_race import Begun, Missed, ThreadRace, arace
from langchain_tokenopt.routing.balance_shared import SharedBoard, SharedDeployments
from langchain_tokenopt.routing.balance_tries import Patience, Tries
from langchain_tokenopt.routing.deployment import BalanceStats, Deployment, Hedging
from langchain_tokenopt.routing.deployment_fault import Fault, Judge


class Balancer:
    """The deployments of a model, and how requests are spread over them."""

    def __init__(
        self,
        deployments: Sequence[Deployment],
        *,
        choices: int,
        patience: Patience,
        hedging: Hedging | None,
        judge: Judge,
        shared: SharedDeployments | None,
        clock: Callable[[], float],
        rng: random.Random,
    ) -> None:
        self.deployments = tuple(deployments)
        self._board = Board(deployments, choices=choices, hedging=hedging, clock=clock, rng=rng)
        self._shared = SharedBoard(self._board, shared, deployments, clock=clock)
        self._patience, self._judge = patience, judge

    def stats(self) -> BalanceStats:
        """Return how the deployments stand."""
        return self._board.stats(shared_failures=self._shared.failures)

    def ask(
        self,
        asked: Asked,
        choice: Choice,
        begin: Callable[[Turn], Begun],
    ) -> Begun:
        """Return the answer, or the stream that began, of the first deployment that gives one."""
        self._board.request()
        tries = Tries(choice, self._patience)
        while True:
            turn = self._take(tries)
            if turn is None:
                raise tries.failure(self._board)
            if tries.last is not None:
                self._tell_failure(asked, tries.last, turn)
            tries.asked.append(turn.deployment.name)
            came = self._call(turn, tries, asked, begin)
            if isinstance(came, Begun):
                return came
            if came.fault is None:
                raise came.error
            tries.last = came

    async def aask(
        self,
        asked: Asked,
        choice: Choice,
        begin: Callable[[Turn], Awaitable[Begun]],
    ) -> Begun:
        """Do what `ask` does without blocking the event loop."""
        self._board.request()
        tries = Tries(choice, self._patience)
        while True:
            turn = await self._atake(tries)
            if turn is None:
                raise tries.failure(self._board)
            if tries.last is not None:
                await self._atell_failure(asked, tries.last, turn)
            tries.asked.append(turn.deployment.name)
            came = await self._acall(turn, tries, asked, begin)
            if isinstance(came, Begun):
                return came
            if came.fault is None:
                raise came.error
            tries.last = came

    def stream(self, begun: Begun) -> Generator[ChatGenerationChunk]:
        """Yield a stream that began; where it breaks its error is raised, it never starts again."""
        turn, stream = begun.turn, begun.stream
        assert stream is not None  # noqa: S101 - told apart by who begins it
        try:
            with closing(stream):
                yield from begun.chunks
                yield from stream
        except Exception as error:
            self._ended_by(turn, error)
            raise
        except BaseException:
            self._left(turn)
            raise
        self._shared.report(turn.answered())

    async def astream(self, begun: Begun) -> AsyncGenerator[ChatGenerationChunk]:
        """Do what `stream` does without blocking the event loop."""
        turn, stream = begun.turn, begun.astream
        assert stream is not None  # noqa: S101 - told apart by who begins it
        try:
            async with aclosing(stream):
                for chunk in begun.chunks:
                    yield chunk
                async for chunk in stream:
                    yield chunk
        except Exception as error:
            await self._aended_by(turn, error)
            raise
        except BaseException:
            await self._aleft(turn)
            raise
        await self._shared.areport(turn.answered())

    def _take(self, tries: Tries) -> Turn | None:
        """Return a turn at a deployment, once there is one; `None` to give up."""
        while tries.may_go_on:
            self._shared.refresh()
            turn = self._free(tries.choice)
            if turn is None and tries.asked:
                turn = self._free(tries.again)
            if turn is None and tries.takes_any:
                turn = self._board.take_soonest(tries.choice)
            if turn is not None:
                return turn
            wait_s = tries.wait_s(self._board.next_s(tries.again))
            if wait_s is None:
                break
            self._patience.sleep(wait_s)
        return None

    async def _atake(self, tries: Tries) -> Turn | None:
        while tries.may_go_on:
            await self._shared.arefresh()
            turn = await self._afree(tries.choice)
            if turn is None and tries.asked:
                turn = await self._afree(tries.again)
            if turn is None and tries.takes_any:
                turn = self._board.take_soonest(tries.choice)
            if turn is not None:
                return turn
            wait_s = tries.wait_s(self._board.next_s(tries.again))
            if wait_s is None:
                break
            await self._patience.async_sleep(wait_s)
        return None

    def _free(self, choice: Choice) -> Turn | None:
        while (turn := self._board.take(choice)) is not None:
            if not turn.tests or self._shared.may_probe(turn):
                return turn
            self._board.undo(turn)  # another process makes that call now
            choice = choice.without(turn.deployment)
        return None

    async def _afree(self, choice: Choice) -> Turn | None:
        while (turn := self._board.take(choice)) is not None:
            try:
                allowed = not turn.tests or await self._shared.amay_probe(turn)
            except BaseException:
                self._board.undo(turn)
                raise
            if allowed:
                return turn
            self._board.undo(turn)
            choice = choice.without(turn.deployment)
        return None

    def _call(
        self, turn: Turn, tries: Tries, asked: Asked, begin: Callable[[Turn], Begun]
    ) -> Begun | Missed:
        after_s = self._board.hedge_after_s(turn)
        if after_s is None:
            return self._begun(turn, tries, begin)

        def second() -> tuple[Turn, Side] | None:
            hedge = self._board.take_hedge(turn, tries.choice)
            if hedge is None:
                return None
            try:
                return hedge, asked.start(hedge.deployment.name, name="hedge")
            except BaseException as error:
                self._board.undo(hedge)
                if isinstance(error, BudgetExceededError):
                    return None
                raise

        race = ThreadRace(lambda each: self._begun(each, tries, begin))
        return self._won(race.run(turn, after_s=after_s, second=second))

    async def _acall(
        self, turn: Turn, tries: Tries, asked: Asked, begin: Callable[[Turn], Awaitable[Begun]]
    ) -> Begun | Missed:
        after_s = self._board.hedge_after_s(turn)
        if after_s is None:
            return await self._abegun(turn, tries, begin)

        async def second() -> tuple[Turn, AsyncSide] | None:
            hedge = self._board.take_hedge(turn, tries.choice)
            if hedge is None:
                return None
            try:
                return hedge, await asked.astart(hedge.deployment.name, name="hedge")
            except BaseException as error:
                self._board.undo(hedge)
                if isinstance(error, BudgetExceededError):
                    return None
                raise

        def called(each: Turn) -> Coroutine[Any, Any, Begun | Missed]:
            return self._abegun(each, tries, begin)

        return self._won(await arace(called, turn, after_s=after_s, second=second))

    def _won(self, came: Begun | Missed) -> Begun | Missed:
        if isinstance(came, Begun) and came.turn.hedge:
            self._board.hedge_won()
        return came

    def _begun(self, turn: Turn, tries: Tries, begin: Callable[[Turn], Begun]) -> Begun | Missed:
        try:
            begun = begin(turn)
        except Exception as error:  # noqa: BLE001 - raised by whoever asks, or another is asked
            return tries.missed(turn, error, self._ended_by(turn, error))
        except BaseException:
            self._left(turn)
            raise
        turn.measured()
        if begun.result is not None:
            self._shared.report(turn.answered())
        return begun

    async def _abegun(
        self, turn: Turn, tries: Tries, begin: Callable[[Turn], Awaitable[Begun]]
    ) -> Begun | Missed:
        try:
            begun = await begin(turn)
        except Exception as error:  # noqa: BLE001 - raised by whoever asks, or another is asked
            return tries.missed(turn, error, await self._aended_by(turn, error))
        except BaseException:
            await self._aleft(turn)
            raise
        turn.measured()
        if begun.result is not None:
            await self._shared.areport(turn.answered())
        return begun

    def _ended_by(self, turn: Turn, error: Exception) -> Fault | None:
        fault = self._judge(error)
        if fault is not None:
            self._shared.report(turn.failed(fault))
        elif turn.tests:
            self._shared.report(turn.rejected())
        else:
            turn.rejected()
        return fault

    async def _aended_by(self, turn: Turn, error: Exception) -> Fault | None:
        fault = self._judge(error)
        if fault is not None:
            await self._shared.areport(turn.failed(fault))
        elif turn.tests:
            await self._shared.areport(turn.rejected())
        else:
            turn.rejected()
        return fault

    def _left(self, turn: Turn) -> None:
        report = turn.left()
        if turn.tests:  # so that another process may make the call
            self._shared.report(report)

    async def _aleft(self, turn: Turn) -> None:
        report = turn.left()
        if turn.tests:
            await self._shared.areport(report)

    def _tell_failure(self, asked: Asked, missed: Missed, turn: Turn) -> None:
        """Tell of a failed call, now that the request's own run is another one's."""
        try:
            asked.start(missed.turn.deployment.name, name="failed call").failed(missed.error)
        except BaseException as refusal:
            self._board.undo(turn)
            raise refusal from missed.error

    async def _atell_failure(self, asked: Asked, missed: Missed, turn: Turn) -> None:
        try:
            side = await asked.astart(missed.turn.deployment.name, name="failed call")
            await side.failed(missed.error)
        except BaseException as refusal:
            self._board.undo(turn)
            raise refusal from missed.error
