"""A provider's prompt cache, simulated by the rule that the provider publishes."""

import json
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

from langchain_tokenopt.errors import ConfigurationError
from langchain_tokenopt.testing.wire import text_of

_BLOCK = 32  # characters, about eight tokens: the grain at which prefixes are compared
_MOST_BLOCKS = 2_000_000


class PromptCache:
    """Say how many tokens of a prompt a provider would have found cached.

    OpenAI's rule: the longest prefix shared with an earlier prompt of the same model, tools first,
    in steps of 128 tokens from 1,024 on, for some minutes after its last use. Prefixes are
    compared by the 32 characters, so a count may be short by one step.
    See https://platform.openai.com/docs/guides/prompt-caching

    Args:
        minimum: Tokens below which nothing is cached.
        step: Cached tokens beyond the minimum are a multiple of this.
        lifetime_s: How long an unused prefix stays, in seconds.
        reports_writes: Whether usage says how many tokens were written, as it does for the models
            that charge for writes.
    """

    def __init__(
        self,
        *,
        minimum: int = 1024,
        step: int = 128,
        lifetime_s: float = 300.0,
        reports_writes: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if minimum < 1 or step < 1 or lifetime_s <= 0:
            message = (
                "minimum and step must be at least 1 and lifetime_s more than 0, "
                f"got {minimum}, {step} and {lifetime_s}"
            )
            raise ConfigurationError(message)
        self.reports_writes = reports_writes
        self._minimum = minimum
        self._step = step
        self._lifetime_s = lifetime_s
        self._clock = clock
        self._lock = threading.Lock()
        self._seen: OrderedDict[int, float] = OrderedDict()

    def read(
        self, body: Mapping[str, Any], *, input_tokens: int, count_text: Callable[[str], int]
    ) -> tuple[int, int]:
        """Return the tokens read from the cache and written to it, and remember the prompt."""
        prompt = _prompt_text(body)
        now = self._clock()
        shared = 0
        with self._lock:
            chained = hash(body["model"])
            known = True
            for start in range(0, len(prompt) - _BLOCK + 1, _BLOCK):
                chained = hash((chained, prompt[start : start + _BLOCK]))
                known = known and now - self._seen.get(chained, -self._lifetime_s) < (
                    self._lifetime_s
                )
                shared += _BLOCK * known
                self._seen[chained] = now
                self._seen.move_to_end(chained)
            while len(self._seen) > _MOST_BLOCKS:
                self._seen.popitem(last=False)
        read = self._rounded(min(count_text(prompt[:shared]), input_tokens))
        return read, self._rounded(input_tokens) - read

    def _rounded(self, tokens: int) -> int:
        if tokens < self._minimum:
            return 0
        return self._minimum + (tokens - self._minimum) // self._step * self._step


def _prompt_text(body: Mapping[str, Any]) -> str:
    """Return what a model reads, in the order in which it reads it."""
    parts = [json.dumps(tool, ensure_ascii=False) for tool in body.get("tools") or ()]
    for message in body["messages"]:
        parts.append(f"{message['role']}\n{text_of(message.get('content'))}")
        parts.extend(json.dumps(call["function"]) for call in message.get("tool_calls") or ())
    return "\n".join(parts)
