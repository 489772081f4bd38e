"""Let each text be embedded by one caller at a time, threads and tasks alike."""

import asyncio
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from types import TracebackType

_LATELY = 10_000
# A task may need a thread to go on, and threads that wait for it may be all that there are.
_MOST_FOR_A_TASK_S = 2.0


@dataclass(frozen=True, slots=True)
class _Owner:
    """Who embeds a text: a caller that waited for itself would wait for ever."""

    thread_id: int
    task: "asyncio.Task[object] | None"

    @classmethod
    def current(cls) -> "_Owner":
        try:
            task = asyncio.current_task()
        except RuntimeError:  # no loop runs in this thread
            task = None
        return cls(threading.get_ident(), task)


@dataclass(frozen=True, slots=True)
class _Claim:
    owner: _Owner
    # None: given up, whoever waits may try.
    entry: "Future[bytes | None]" = field(default_factory=Future)


class Claimed:
    """What one caller is to embed, and what others embed for it; leaving the block gives it up.

    Attributes:
        own: The keys that this caller is to embed.
        lately: Those of `own` that were embedded shortly before: the store may have them by now.
    """

    def __init__(self, claims: "Claims") -> None:
        self.own: list[bytes] = []
        self.lately: list[bytes] = []
        self._claims = claims
        self._mine: dict[bytes, _Claim] = {}
        self._theirs: dict[bytes, _Claim] = {}

    def deliver(self, entries: Mapping[bytes, bytes]) -> None:
        """Release those who wait for these keys; newcomers get them until the block ends."""
        for key, entry in entries.items():
            claim = self._mine.get(key)
            if claim is not None and not claim.entry.done():
                claim.entry.set_result(entry)

    def wait(self, *, most_s: float) -> dict[bytes, bytes]:
        """Block for what others embed; what is missing they gave up, or did not have in time."""
        started = time.monotonic()
        got: dict[bytes, bytes] = {}
        for key, claim in self._theirs.items():
            limit_s = most_s if claim.owner.task is None else min(most_s, _MOST_FOR_A_TASK_S)
            left_s = max(0.0, started + limit_s - time.monotonic())
            try:
                entry = claim.entry.result(timeout=left_s)
            except TimeoutError:
                entry = None
                self._claims._overtake(key, claim)
            if entry is not None:
                got[key] = entry
        return got

    async def await_(self, *, most_s: float) -> dict[bytes, bytes]:
        """Do what `wait` does without blocking the event loop."""
        if self._theirs:
            waited = [asyncio.wrap_future(claim.entry) for claim in self._theirs.values()]
            await asyncio.wait(waited, timeout=most_s)
        return self.wait(most_s=0.0)

    def __enter__(self) -> "Claimed":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._claims._release(self._mine)


class Claims:
    """Who embeds what at this moment."""

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._held: dict[bytes, _Claim] = {}
        self._lately: OrderedDict[bytes, None] = OrderedDict()

    def claim(self, keys: Iterable[bytes], *, blocking: bool) -> Claimed:
        """Claim the keys that nobody holds; with `blocking` the caller will `wait`, not await."""
        if os.getpid() != self._pid:  # a forked child has none of its parent's callers
            self._reset()
        claimed = Claimed(self)
        caller = _Owner.current()
        with self._lock:
            for key in keys:
                held = self._held.get(key)
                if held is None:
                    claim = _Claim(caller)
                    claim.entry.set_running_or_notify_cancel()  # a waiter cannot cancel it
                    self._held[key] = claimed._mine[key] = claim
                    claimed.own.append(key)
                    if key in self._lately:
                        claimed.lately.append(key)
                elif _stuck(held.owner, caller, blocking=blocking) and not held.entry.done():
                    claimed.own.append(key)
                else:
                    claimed._theirs[key] = held
        return claimed

    def waiting_for(self, key: bytes) -> bool:
        """Return whether someone embeds this key now."""
        with self._lock:
            return key in self._held

    def _overtake(self, key: bytes, claim: _Claim) -> None:
        with self._lock:
            if self._held.get(key) is claim and not claim.entry.done():
                del self._held[key]

    def _release(self, mine: Mapping[bytes, _Claim]) -> None:
        with self._lock:
            for key, claim in mine.items():
                if self._held.get(key) is claim:
                    del self._held[key]
                if claim.entry.done():
                    self._lately[key] = None
                    self._lately.move_to_end(key)
            while len(self._lately) > _LATELY:
                self._lately.popitem(last=False)
        for claim in mine.values():
            if not claim.entry.done():
                claim.entry.set_result(None)


def _stuck(owner: _Owner, caller: _Owner, *, blocking: bool) -> bool:
    """Return whether the owner cannot go on while the caller waits."""
    if blocking:
        return owner.thread_id == caller.thread_id
    return owner.task is not None and owner.task is caller.task
