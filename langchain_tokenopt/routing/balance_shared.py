"""What processes tell each other of deployments, and how one goes on when they cannot."""

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from langchain_tokenopt.errors import StoreError
from langchain_tokenopt.routing.balance_board import Board, Report, Turn
from langchain_tokenopt.routing.deployment import Deployment
from langchain_tokenopt.routing.deployment_state import SharedState

_LOG = logging.getLogger(__name__)
# A store that failed is left alone for a second, then twice as long each time, up to half a minute.
_FIRST_REST_S, _LONGEST_REST_S = 1.0, 30.0
_REFRESH_S = 0.2


class SharedDeployments(Protocol):
    """What all processes know of the deployments of a model; each method may raise `StoreError`."""

    def read(self, deployments: Sequence[Deployment]) -> Mapping[str, SharedState]:
        """Return how each deployment stands."""
        ...

    async def aread(self, deployments: Sequence[Deployment]) -> Mapping[str, SharedState]:
        """Do what `read` does without blocking the event loop."""
        ...

    def report(self, report: Report) -> None:
        """Add what a call showed."""
        ...

    async def areport(self, report: Report) -> None:
        """Do what `report` does without blocking the event loop."""
        ...

    def probe(self, deployment: Deployment) -> bool:
        """Return whether this process may make the one call that a half-open deployment gets."""
        ...

    async def aprobe(self, deployment: Deployment) -> bool:
        """Do what `probe` does without blocking the event loop."""
        ...


class SharedBoard:
    """Keeps a process's board and the shared state together.

    While the shared state cannot be used, the process goes on with what it knows itself.
    """

    def __init__(
        self,
        board: Board,
        shared: SharedDeployments | None,
        deployments: Sequence[Deployment],
        *,
        clock: Callable[[], float],
    ) -> None:
        self._board, self._shared, self._deployments = board, shared, tuple(deployments)
        self._clock = clock
        self._lock = threading.Lock()
        self._read_at = self._rest_until = float("-inf")
        self._rest_s = _FIRST_REST_S
        self.failures = 0
        """Times that the shared state could not be used."""

    def refresh(self) -> None:
        """Learn what other processes know, unless that was just done."""
        shared = self._due()
        if shared is None:
            return
        asked_at = self._clock()
        try:
            known = shared.read(self._deployments)
        except StoreError as error:
            self._failed(error)
        else:
            self._learned(known, asked_at)

    async def arefresh(self) -> None:
        """Do what `refresh` does without blocking the event loop."""
        shared = self._due()
        if shared is None:
            return
        asked_at = self._clock()
        try:
            known = await shared.aread(self._deployments)
        except StoreError as error:
            self._failed(error)
        else:
            self._learned(known, asked_at)

    def report(self, report: Report) -> None:
        """Tell others what a call showed."""
        shared = self._awake()
        if shared is None:
            self._untold(report)
            return
        try:
            shared.report(report)
        except StoreError as error:
            self._failed(error)
            self._untold(report)
        else:
            self._told(report)

    async def areport(self, report: Report) -> None:
        """Do what `report` does without blocking the event loop."""
        shared = self._awake()
        if shared is None:
            self._untold(report)
            return
        try:
            await shared.areport(report)
        except StoreError as error:
            self._failed(error)
            self._untold(report)
        else:
            self._told(report)

    def may_probe(self, turn: Turn) -> bool:
        """Return whether no other process makes the one call that a half-open deployment gets."""
        shared = self._awake()
        if shared is None:
            return True
        try:
            return shared.probe(turn.deployment)
        except StoreError as error:
            self._failed(error)
            return True

    async def amay_probe(self, turn: Turn) -> bool:
        """Do what `may_probe` does without blocking the event loop."""
        shared = self._awake()
        if shared is None:
            return True
        try:
            return await shared.aprobe(turn.deployment)
        except StoreError as error:
            self._failed(error)
            return True

    def _awake(self) -> SharedDeployments | None:
        if self._shared is None or self._clock() < self._rest_until:
            return None
        return self._shared

    def _due(self) -> SharedDeployments | None:
        shared = self._awake()
        if shared is None:
            return None
        with self._lock:
            now = self._clock()
            if now < self._read_at + _REFRESH_S:
                return None
            self._read_at = now
        return shared

    def _learned(self, known: Mapping[str, SharedState], asked_at: float) -> None:
        self._board.learn(known, asked_at=asked_at)
        with self._lock:
            self._rest_s = _FIRST_REST_S

    def _told(self, report: Report) -> None:
        self._board.shared(report.deployment, told="told")

    def _untold(self, report: Report) -> None:
        if self._shared is not None:
            self._board.shared(report.deployment, told="untold")

    def _failed(self, error: StoreError) -> None:
        with self._lock:
            self.failures += 1
            first = self.failures == 1
            self._rest_until = self._clock() + self._rest_s
            self._rest_s = min(2 * self._rest_s, _LONGEST_REST_S)
        if first:
            _LOG.warning(
                "what other processes know of the deployments cannot be read, this one goes on "
                "with what it knows: %s",
                error,
            )
