"""How much a budget among the callbacks has left, for what can do with less."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Protocol, runtime_checkable


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """What may still be used; `None` means that nothing limits it."""

    tokens: int | None = None
    calls: int | None = None
    dollars: Decimal | None = None


@runtime_checkable
class TellsRoom(Protocol):
    """A callback handler that knows a budget."""

    def room(self, metadata: Mapping[str, Any]) -> Room | None:
        """Return what is left for calls with this metadata, `None` if that cannot be told now.

        May wait for a disk or a network.
        """
        ...


def room_left(callbacks: Any) -> Room:
    """Return the least that the budgets among callbacks have left.

    Args:
        callbacks: A list of handlers or a callback manager, as in a config.

    >>> room_left(None)
    Room(tokens=None, calls=None, dollars=None)
    """
    handlers = getattr(callbacks, "handlers", callbacks) or ()
    metadata = getattr(callbacks, "metadata", None) or {}
    told = (handler.room(metadata) for handler in handlers if isinstance(handler, TellsRoom))
    return least_room(room for room in told if room is not None)


def least_room(rooms: Iterable[Room]) -> Room:
    """Return what may be used within every one of the rooms."""
    known = list(rooms)
    return Room(
        tokens=_least(room.tokens for room in known),
        calls=_least(room.calls for room in known),
        dollars=_least(room.dollars for room in known),
    )


def _least(amounts: Iterable[Any]) -> Any:
    return min((amount for amount in amounts if amount is not None), default=None)
