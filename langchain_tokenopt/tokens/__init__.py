"""Token counts: exact where the provider's vocabulary is at hand, labelled estimates otherwise."""

from langchain_tokenopt.tokens.counting import TokenCounter, counter_for
from langchain_tokenopt.tokens.encodings import ModelEncoding, encoding_of
from langchain_tokenopt.tokens.images import ImageTokens, image_tokens

__all__ = [
    "ImageTokens",
    "ModelEncoding",
    "TokenCounter",
    "counter_for",
    "encoding_of",
    "image_tokens",
]
