"""Which encoding a model counts with, and whether that is the provider's own."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelEncoding:
    """The encoding that counts for a model."""

    name: str
    exact: bool
    """Whether the provider itself counts with it; otherwise a count is an estimate."""


# tiktoken's own map ends at the models of its release; newer OpenAI models all use o200k_base.
_CL100K = ("gpt-4-", "gpt-3.5", "gpt-35", "text-embedding-3", "text-embedding-ada-002")
_O200K = ("gpt-4o", "gpt-4.", "gpt-5", "gpt-6", "gpt-7", "chatgpt-", "o1", "o3", "o4", "gpt-oss")


def encoding_of(model: str | None) -> ModelEncoding:
    """Return the encoding of `model`; of no model, o200k_base as an exact one.

    >>> encoding_of("gpt-5.1").name, encoding_of("ft:gpt-4-0613:acme::1").name
    ('o200k_base', 'cl100k_base')
    >>> encoding_of("claude-sonnet-4-5").exact
    False
    """
    if model is None:
        return ModelEncoding(name="o200k_base", exact=True)
    name = model.lower().removeprefix("ft:").removeprefix("openai/")
    if name.startswith(_O200K):
        return ModelEncoding(name="o200k_base", exact=True)
    if name == "gpt-4" or name.startswith(_CL100K):
        return ModelEncoding(name="cl100k_base", exact=True)
    return ModelEncoding(name="o200k_base", exact=False)
