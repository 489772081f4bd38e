"""Token counts before a call is made: exact where the encoding is known, labelled otherwise.

`counter_for(model)` counts text, messages, tools and images the way the provider bills them. The
encoder is chosen once per encoding: toktok-rs (the extra `fast`), then tiktoken if its file lies
on this machine, then a calibrated estimator. Nothing is ever downloaded.
"""

from langchain_tokenopt.tokens.calibration import Calibration
from langchain_tokenopt.tokens.choice import load_encoding
from langchain_tokenopt.tokens.counter import ChatCounter, TokenCounter, counter_for
from langchain_tokenopt.tokens.encodings import TextEncoding
from langchain_tokenopt.tokens.images import ImageTokens, image_tokens
from langchain_tokenopt.tokens.models import ModelEncoding, encoding_of

__all__ = [
    "Calibration",
    "ChatCounter",
    "ImageTokens",
    "ModelEncoding",
    "TextEncoding",
    "TokenCounter",
    "counter_for",
    "encoding_of",
    "image_tokens",
    "load_encoding",
]
