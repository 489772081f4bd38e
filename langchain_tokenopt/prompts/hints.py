"""Tell a provider what to cache: the tools in order, a key, marks on blocks, options.

Whatever another provider was told is taken off first, so that a request can fall back to any model.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, SystemMessage
from langchain_core.tools import BaseTool

from langchain_tokenopt.errors import ConfigurationError
from langchain_tokenopt.prompts.cache_rules import CacheRule, CacheRules, bundled_rules
from langchain_tokenopt.prompts.shape import HINTS, Part, RequestShape, version_of
from langchain_tokenopt.tokens import counter_for

STATIC = "tokenopt_static"
"""Key in `response_metadata` of a message that is equal in every request."""

KEYWORDS = (
    "prompt_cache_key",
    "prompt_cache_retention",
    "prompt_cache_options",
    "cache_control",
)
_LONGEST_KEY = 64
# OpenAI routes a key to one machine up to about this rate, and then to others, which know nothing.
REQUESTS_A_MINUTE_A_KEY = 15


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheHints:
    """What a provider is to be told.

    Args:
        name: Begins the `prompt_cache_key`, so that it can be recognised.
        lifetime: The provider's name of a longer life (`1h`, `24h`); where a model has no such one,
            its default. `None` is the default of each.
        shards: Over how many keys a prefix is spread. OpenAI serves about 15 requests a minute of
            one key from one machine; see `shards_for`.
        shard_by: The key in the call's metadata that chooses the shard, such as `thread_id`, so
            that a conversation stays on one. Without it, or without its value, the first message
            after the static ones does.
        rules: How providers cache.
    """

    name: str = "tokenopt"
    lifetime: str | None = None
    shards: int = 1
    shard_by: str | None = None
    rules: CacheRules = field(default_factory=bundled_rules)

    def __post_init__(self) -> None:
        if self.shards < 1:
            raise ConfigurationError(f"shards must be at least 1, got {self.shards}")
        if not self.name or len(self.name) > 32:
            raise ConfigurationError(f"name must have 1 to 32 characters, got {self.name!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class HintedRequest:
    """A request that tells its provider what to cache."""

    messages: list[BaseMessage]
    keywords: dict[str, Any]
    """For the call: tools in their order, key, options."""
    version: str
    """Of the static prefix: changes whenever that does."""
    static_tokens: int
    """Tokens of the static prefix."""
    cacheable: bool
    """Whether the static prefix is as long as the provider asks for."""


def shards_for(requests_a_minute: float) -> int:
    """Return over how many keys a prefix should be spread.

    >>> shards_for(10), shards_for(100)
    (1, 7)
    """
    return max(1, -(-round(requests_a_minute) // REQUESTS_A_MINUTE_A_KEY))


def hinted(
    messages: Sequence[BaseMessage],
    keywords: Mapping[str, Any],
    *,
    model: str,
    provider: str | None,
    hints: CacheHints,
    metadata: Mapping[str, Any] | None = None,
) -> HintedRequest:
    """Return the request with its tools sorted by name, and with hints for its provider.

    The static prefix is the tools, the leading system messages and what `PromptBuilder` put behind
    them. A prefix below the provider's minimum gets a key, for the history may grow, and no marks.
    """
    bare = without_hints(messages)
    told = {name: value for name, value in keywords.items() if name not in KEYWORDS}
    tools = sorted_tools(told.get("tools") or ())
    if tools:
        told["tools"] = tools
    static = _static(bare)
    shape = RequestShape.of(bare[:static], model=model, parameters={"tools": tools})
    version = version_of(shape.parts)
    counter = counter_for(model)
    static_tokens = counter.count_messages(bare[:static], tools=tools) if static or tools else 0
    rule = hints.rules.find(model, provider=provider)
    if rule is None:
        return HintedRequest(
            messages=bare, keywords=told, version=version, static_tokens=static_tokens,
            cacheable=False,
        )  # fmt: skip
    cacheable = static_tokens >= rule.minimum_tokens
    lifetime = hints.lifetime if _has(rule, hints.lifetime) else None
    if rule.takes_key:
        told["prompt_cache_key"] = _key(hints, version, bare[static:], metadata or {})
    if lifetime in rule.retentions and lifetime != rule.lifetimes[0].name:
        told["prompt_cache_retention"] = lifetime
    continued = any(isinstance(message, AIMessage) for message in bare[static:])
    if rule.takes_options and not continued:
        # One question after a prefix: writing the question too would cost and serve nobody.
        told["prompt_cache_options"] = {"mode": "explicit", "ttl": rule.lifetime(lifetime).name}
    if rule.mark is not None:
        value = _mark(rule, lifetime)
        at = [static - 1] if static and cacheable else []
        if continued and rule.mark == "cache_control":
            at.append(len(bare) - 1)  # the history so far is read by the next turn
        for index in at:
            bare[index] = _marked(bare[index], rule.mark, value)
        if tools and not static and cacheable and rule.mark == "cache_control":
            told["tools"] = [*tools[:-1], _marked_tool(tools[-1], value)]
    return HintedRequest(
        messages=bare, keywords=told, version=version, static_tokens=static_tokens,
        cacheable=cacheable,
    )  # fmt: skip


def model_and_provider(model: BaseChatModel) -> tuple[str, str | None]:
    """Return the name of a chat model and of its provider, as LangChain has them."""
    told: Mapping[str, Any] = model._get_ls_params()
    name = told.get("ls_model_name") or getattr(model, "model_name", None)
    provider = told.get("ls_provider")
    return str(name or "unknown"), None if provider is None else str(provider)


def sorted_tools(tools: Sequence[Any]) -> list[Any]:
    """Return tools in the order of their names, whatever form they have.

    >>> sorted_tools([{"name": "b"}, {"type": "function", "function": {"name": "a"}}])
    [{'type': 'function', 'function': {'name': 'a'}}, {'name': 'b'}]
    """
    return sorted(tools, key=_name_of)


def without_hints(messages: Sequence[BaseMessage]) -> list[BaseMessage]:
    """Return messages without marks for any provider's cache; those without any are not copied."""
    return [_unmarked(message) for message in messages]


def without_hint_keywords(keywords: Mapping[str, Any]) -> dict[str, Any]:
    """Return keyword arguments without what only one provider's cache knows."""
    return {name: value for name, value in keywords.items() if name not in KEYWORDS}


def _name_of(tool: Any) -> str:
    if isinstance(tool, Mapping):
        inner = tool.get("function")
        named = inner if isinstance(inner, Mapping) else tool
        return str(named.get("name") or named.get("title") or named.get("type") or "")
    return str(getattr(tool, "name", None) or getattr(tool, "__name__", ""))


def _static(messages: Sequence[BaseMessage]) -> int:
    n = 0
    while n < len(messages) and (
        isinstance(messages[n], SystemMessage) or messages[n].response_metadata.get(STATIC)
    ):
        n += 1
    return n


def _has(rule: CacheRule, lifetime: str | None) -> bool:
    return any(each.name == lifetime for each in rule.lifetimes)


def _key(
    hints: CacheHints, version: str, rest: Sequence[BaseMessage], metadata: Mapping[str, Any]
) -> str:
    key = f"{hints.name}-{version}"
    if hints.shards > 1:
        chosen = metadata.get(hints.shard_by) if hints.shard_by else None
        if chosen is None and rest:
            chosen = version_of([Part(message.type, str(message.text)) for message in rest[:1]])
        digest = sha256(str(chosen).encode(errors="replace")).digest()
        key += f"-{int.from_bytes(digest[:8], 'big') % hints.shards}"
    return key[:_LONGEST_KEY]


def _mark(rule: CacheRule, lifetime: str | None) -> dict[str, Any]:
    if rule.mark == "prompt_cache_breakpoint":
        return {"mode": "explicit"}
    value = {"type": "ephemeral"}
    # The default is not named: not every place that serves these models knows `ttl`.
    return {**value, "ttl": lifetime} if lifetime not in (None, rule.lifetimes[0].name) else value


def _marked(message: BaseMessage, mark: str, value: Mapping[str, Any]) -> BaseMessage:
    content = message.content
    blocks: list[Any] = (
        [{"type": "text", "text": content}] if isinstance(content, str) else list(content)
    )
    if not blocks or content == "":
        return message
    last = blocks[-1]
    block = {"type": "text", "text": last} if isinstance(last, str) else dict(last)
    return message.model_copy(update={"content": [*blocks[:-1], {**block, mark: dict(value)}]})


def _marked_tool(tool: Any, value: Mapping[str, Any]) -> Any:
    if isinstance(tool, BaseTool):
        extras = {**(tool.extras or {}), "cache_control": dict(value)}
        return tool.model_copy(update={"extras": extras})
    return {**tool, "cache_control": dict(value)} if isinstance(tool, Mapping) else tool


def _unmarked(message: BaseMessage) -> BaseMessage:
    content = message.content
    if isinstance(content, str) or not any(
        isinstance(block, dict) and any(hint in block for hint in HINTS) for block in content
    ):
        return message
    bare = [
        {name: value for name, value in block.items() if name not in HINTS}
        if isinstance(block, dict)
        else block
        for block in content
    ]
    return message.model_copy(update={"content": bare})
