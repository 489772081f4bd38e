"""What tests of LLM applications need: models by script or recording, and a loopback server."""

from langchain_tokenopt.testing.batches import BatchRules
from langchain_tokenopt.testing.embedding import embed_words
from langchain_tokenopt.testing.prompt_cache import PromptCache
from langchain_tokenopt.testing.replay import RecordedQuestion, ReplayModel
from langchain_tokenopt.testing.scripted import Failure, ScriptedModel
from langchain_tokenopt.testing.server import LoopbackServer
from langchain_tokenopt.testing.wire import (
    ChatRequest,
    Dropped,
    Fault,
    Latency,
    RateLimited,
    Reply,
    ServerError,
)

__all__ = [
    "BatchRules",
    "ChatRequest",
    "Dropped",
    "Failure",
    "Fault",
    "Latency",
    "LoopbackServer",
    "PromptCache",
    "RateLimited",
    "RecordedQuestion",
    "ReplayModel",
    "Reply",
    "ScriptedModel",
    "ServerError",
    "embed_words",
]
