"""Which encoding a model reads, and whether that is known or assumed."""

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelEncoding:
    """The encoding used to count for a model."""

    name: str
    """tiktoken's name of the encoding: `o200k_base`, `cl100k_base`, ..."""
    exact: bool
    """Whether the model really reads this encoding; if not, counts are estimates."""


_DEFAULT = "o200k_base"

# The first pattern that matches from the start of the bare model name wins. The names of models
# that are still to come are assumed to keep the newest encoding, as tiktoken does for `gpt-5*`.
_RULES: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), encoding)
    for pattern, encoding in (
        (r"gpt-oss", "o200k_harmony"),
        (r"gpt-(4o|4\.\d|[5-9]|\d\d)", "o200k_base"),
        (r"(gpt-4|gpt-3\.5|gpt-35-turbo)(-|$)", "cl100k_base"),
        (r"(chatgpt-|o\d+(-|$)|codex-mini|computer-use)", "o200k_base"),
        (r"(text-embedding-(3|ada-002)|(davinci|babbage)-002)", "cl100k_base"),
        (r"(text|code)-davinci-edit-001", "p50k_edit"),
        (r"(text-davinci-00[23]|code-(davinci|cushman)-00\d|(davinci|cushman)-codex)", "p50k_base"),
        (r"(text-)?(davinci|curie|babbage|ada)(-001)?$", "r50k_base"),
        (r"(text-similarity|text-search|code-search)-", "r50k_base"),
        (r"gpt-?2(-|$)", "gpt2"),
    )
)


def bare_model_name(model: str) -> str:
    """Return `model` in lower case, without provider or fine-tuning prefix.

    >>> bare_model_name("openai/GPT-4o-mini"), bare_model_name("ft:gpt-4o:acme::a1b2")
    ('gpt-4o-mini', 'gpt-4o')
    """
    name = model.strip().lower().rsplit("/", 1)[-1]
    if name.startswith("ft:"):
        return name.split(":")[1]
    provider, colon, rest = name.partition(":")
    return rest if colon and provider in {"openai", "azure", "azure_openai"} else name


def encoding_of(model: str | None) -> ModelEncoding:
    """Return the encoding to count `model` with.

    OpenAI's models have a known one. Every other model is counted with `o200k_base`, and marked as
    inexact; `None` stands for `o200k_base` itself.

    >>> encoding_of("gpt-4")
    ModelEncoding(name='cl100k_base', exact=True)
    >>> encoding_of("claude-sonnet-4-5")
    ModelEncoding(name='o200k_base', exact=False)
    """
    if model is None:
        return ModelEncoding(name=_DEFAULT, exact=True)
    name = bare_model_name(model)
    for pattern, encoding in _RULES:
        if pattern.match(name):
            return ModelEncoding(name=encoding, exact=True)
    return ModelEncoding(name=_DEFAULT, exact=False)
