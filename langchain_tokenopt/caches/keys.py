"""Keys under which answers are kept: equal for requests that must get the same answer.

LangChain hands a cache two texts: the prompt (for chat models a JSON dump of the messages) and a
description of the model. The dump holds what says nothing about the request: message ids, token
counts, the marks that a served answer carries. With them in the key, a conversation that was
answered from the cache once would never be found again.
"""

import ast
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol, runtime_checkable

from langchain_tokenopt.errors import ConfigurationError

_VERSION = "1"  # raise it when the meaning of a key changes, so that old entries miss
_LONG_PROMPT = 65_536

_encode = json.JSONEncoder(sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode

Tenant = str | Callable[[], str]
"""A tenant's name, or a function that returns the current one (from a context variable, say)."""

KEY_FIELDS = frozenset(
    {
        "model", "temperature", "top_p", "top_k", "max_tokens", "stop", "seed", "n", "tools",
        "tool_choice", "response_format", "reasoning_effort", "reasoning", "verbosity",
        "frequency_penalty", "presence_penalty", "logit_bias", "parallel_tool_calls",
        "system", "thinking", "model_kwargs", "extra_body",
    }
)  # fmt: skip
_ALIASES = {"model_name": "model", "max_completion_tokens": "max_tokens"}


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheKey:
    """Where an answer is kept. The tenant is part of the digest: no other tenant can reach it."""

    tenant: str
    digest: bytes
    """32 bytes."""


@runtime_checkable
class Keyed(Protocol):
    """A cache of this package: it knows its keys, and that a second look-up is not another one."""

    def key(self, prompt: str, llm_string: str) -> CacheKey:
        """Return the key of a request."""
        ...

    def lookup_again(self, prompt: str, llm_string: str) -> Sequence[Any] | None:
        """Look once more for a request that was just missed."""
        ...

    async def alookup_again(self, prompt: str, llm_string: str) -> Sequence[Any] | None:
        """Do what `lookup_again` does without blocking the event loop."""
        ...


class KeyMaker:
    """Makes keys from what LangChain hands a cache.

    Args:
        tenant: Whose entries are meant; "" where there is only one.
        key_fields: Which fields of the model belong to the key. By default all of them do: safe,
            but a changed time-out or URL then misses too. Name the fields that change answers
            (`KEY_FIELDS` has those of the common providers) to share entries across such changes.
            Where a model describes itself in a form that cannot be read, all of it is used.
    """

    def __init__(self, *, tenant: Tenant = "", key_fields: Sequence[str] | None = None) -> None:
        if isinstance(key_fields, str) or (key_fields is not None and "model" not in key_fields):
            message = (
                f"key_fields must be a sequence of names that holds 'model', got {key_fields!r}; "
                "without it one model's answers would be served for another"
            )
            raise ConfigurationError(message)
        self._tenant = tenant
        self._fields = None if key_fields is None else frozenset(key_fields)

    def __call__(self, prompt: str, llm_string: str) -> CacheKey:
        """Return the key of a request."""
        return CacheKey(tenant=self._current(), digest=self.digest(prompt, llm_string))

    def digest(self, prompt: str, llm_string: str) -> bytes:
        """Return what the request's entry is kept under."""
        model = llm_string if self._fields is None else _chosen(llm_string, self._fields)
        # A miss asks for its key twice; long prompts are not kept alive for that.
        if len(prompt) > _LONG_PROMPT:
            return _digest(self._current(), prompt, model)
        return _remembered_digest(self._current(), prompt, model)

    def _current(self) -> str:
        return self._tenant if isinstance(self._tenant, str) else self._tenant()


def _digest(tenant: str, prompt: str, model: str) -> bytes:
    digest = hashlib.sha256(_VERSION.encode())
    for part in (tenant, canonical_prompt(prompt), model):
        data = part.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "big") + data)  # so ("ab", "c") is not ("a", "bc")
    return digest.digest()


_remembered_digest = lru_cache(maxsize=1024)(_digest)


def canonical_prompt(prompt: str) -> str:
    """Return the prompt without what does not change the answer; other texts as they are.

    >>> from langchain_core.load import dumps
    >>> from langchain_core.messages import HumanMessage
    >>> first, second = (dumps([HumanMessage("hi", id=name)]) for name in ("a", "b"))
    >>> canonical_prompt(first) == canonical_prompt(second)
    True
    """
    if not prompt.startswith("[{"):
        return prompt
    try:
        messages = json.loads(prompt)
    except (ValueError, RecursionError):
        return prompt
    if not all(_is_message(message) for message in messages) or not messages:
        return prompt
    kept = [_canonical_message(message) for message in messages]
    return _encode(kept)


def _is_message(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and value.get("lc") == 1
        and isinstance(value.get("kwargs"), dict)
        and isinstance(value.get("id"), list)
    )


# A chunk and the message it grew into are the same turn.
_DROPPED = frozenset(
    {"id", "type", "usage_metadata", "response_metadata", "tool_call_chunks", "chunk_position"}
)
_DROPPED_EXTRAS = frozenset({"parsed", "refusal"})


def _canonical_message(message: dict[str, Any]) -> list[Any]:
    fields = {
        k: v for k, v in message["kwargs"].items() if k not in _DROPPED and v not in ([], None)
    }
    extras = fields.pop("additional_kwargs", None)
    if isinstance(extras, dict):
        extras = {k: v for k, v in extras.items() if k not in _DROPPED_EXTRAS}
        # The parsed calls say the same as the raw ones, which streamed answers do not have.
        if fields.get("tool_calls"):
            extras.pop("tool_calls", None)
        fields |= {"additional_kwargs": extras} if extras else {}
    kind = str(message["id"][-1]).removesuffix("Chunk")
    return [kind, fields]


@lru_cache(maxsize=256)
def _chosen(llm_string: str, fields: frozenset[str]) -> str:
    described = _described(llm_string)
    if described is None:
        return llm_string
    kept = {_ALIASES.get(name, name): value for name, value in described.items()}
    chosen = {name: value for name, value in kept.items() if name in fields and value is not None}
    if "model" not in chosen:
        return llm_string
    return json.dumps(chosen, sort_keys=True, default=repr)


def _described(llm_string: str) -> dict[str, Any] | None:
    """Return the fields of LangChain's description of a model, `None` if it cannot be read."""
    head, _, tail = llm_string.rpartition("---")
    try:
        fields = json.loads(head)["kwargs"] if head else {}
        fields |= dict(ast.literal_eval(tail))
    except (ValueError, TypeError, KeyError, SyntaxError, RecursionError, MemoryError):
        return None
    return dict(fields)


@lru_cache(maxsize=256)
def temperature_of(llm_string: str) -> float | None:
    """Return the temperature in LangChain's description of a model, `None` if it names none."""
    value = (_described(llm_string) or {}).get("temperature")
    return float(value) if isinstance(value, int | float) else None
