"""What LangChain's callbacks say of a model call: who answered, with how many tokens.

Accounting prices what is observed here, a reasoning technique adds it up by step; both count the
same call the same way.
"""

from langchain_tokenopt.calls.collector import CallCollector, heard_by
from langchain_tokenopt.calls.handler import CallHandler, CallKind, ObservedCall
from langchain_tokenopt.calls.room import Room, TellsRoom, least_room, room_left
from langchain_tokenopt.calls.usage import (
    TIERS,
    USAGE_FIELDS,
    ReportedUsage,
    Usage,
    normalise_usage,
)

__all__ = [
    "TIERS",
    "USAGE_FIELDS",
    "CallCollector",
    "CallHandler",
    "CallKind",
    "ObservedCall",
    "ReportedUsage",
    "Room",
    "TellsRoom",
    "Usage",
    "heard_by",
    "least_room",
    "normalise_usage",
    "room_left",
]
