"""What a chat model needs that stands around another one."""

from langchain_tokenopt.wrapping.chunks import replay
from langchain_tokenopt.wrapping.model import Call, WrappedChatModel, check_kind
from langchain_tokenopt.wrapping.rewire import replace_models
from langchain_tokenopt.wrapping.upstream import (
    acall,
    astream_of,
    call,
    copied,
    merged,
    stream_of,
)

__all__ = [
    "Call",
    "WrappedChatModel",
    "acall",
    "astream_of",
    "call",
    "check_kind",
    "copied",
    "merged",
    "replace_models",
    "replay",
    "stream_of",
]
