"""What an image costs in tokens, by the formulae that the providers document.

OpenAI: https://platform.openai.com/docs/guides/images-vision#calculating-costs
Anthropic: https://docs.claude.com/en/docs/build-with-claude/vision
Gemini: https://ai.google.dev/gemini-api/docs/tokens
"""

import math
import re
from dataclasses import dataclass
from typing import Any, Protocol

from langchain_tokenopt.tokens.image_size import size_of_base64
from langchain_tokenopt.tokens.models import bare_model_name, encoding_of


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageTokens:
    """The tokens of an image."""

    tokens: int
    estimated: bool
    """Whether the size had to be assumed, or the model is not one of OpenAI's."""


class _Formula(Protocol):
    def tokens(self, width: int, height: int, *, detail: str) -> int: ...


@dataclass(frozen=True, slots=True)
class _Tiles:
    """A base, and a price for each tile of 512 pixels once the image has been scaled down."""

    base: int
    tile: int

    def tokens(self, width: int, height: int, *, detail: str) -> int:
        if detail == "low":
            return self.base
        if max(width, height) > 2048:
            width, height = _scaled(width, height, by=(2048, max(width, height)))
        if min(width, height) > 768:
            width, height = _scaled(width, height, by=(768, min(width, height)))
        return self.base + self.tile * _grid(width, height, side=512)


@dataclass(frozen=True, slots=True)
class _Patches:
    """A factor for each patch of 32 pixels, of which there are at most `most`."""

    factor: float
    most: int = 1_536

    def tokens(self, width: int, height: int, *, detail: str) -> int:
        most = max(self.most, 10_000) if detail == "original" else self.most
        patches = _grid(width, height, side=32)
        if patches > most:
            shrink = math.sqrt(most * 32**2 / (width * height))
            across, down = width * shrink / 32, height * shrink / 32
            # Shrunk once more, until a whole number of patches fits on one side.
            fit = min(max(math.floor(side), 1) / side for side in (across, down))
            patches = math.ceil(round(across * fit, 6)) * math.ceil(round(down * fit, 6))
        # The first rounding keeps 1.2 * 1,280 = 1536.0000000000002 from becoming 1,537.
        return math.ceil(round(min(patches, most) * self.factor, 6))


@dataclass(frozen=True, slots=True)
class _Area:
    """Anthropic: a token for 750 pixels, of an image whose longer side is at most 1,568."""

    def tokens(self, width: int, height: int, *, detail: str) -> int:
        if max(width, height) > 1568:
            width, height = _scaled(width, height, by=(1568, max(width, height)))
        return min(math.ceil(width * height / 750), 1_600)


@dataclass(frozen=True, slots=True)
class _LargeTiles:
    """Gemini: 258 for a small image, else for each tile of 768 pixels."""

    def tokens(self, width: int, height: int, *, detail: str) -> int:
        small = max(width, height) <= 384
        return 258 * (1 if small else _grid(width, height, side=768))


# The first pattern that matches the start of the bare model name. OpenAI's page gives gpt-5-mini
# and gpt-5-nano the factors 1.62 and 2.46; users who compared with `usage` were billed 1.2 and 1.5.
_FORMULAE: tuple[tuple[re.Pattern[str], _Formula], ...] = tuple(
    (re.compile(pattern), formula)
    for pattern, formula in (
        (r"gpt-4\.1-mini", _Patches(1.62)),
        (r"gpt-4\.1-nano", _Patches(2.46)),
        (r"(o4-mini|codex-mini)", _Patches(1.72)),
        (r"gpt-5-mini", _Patches(1.2)),
        (r"gpt-5-nano", _Patches(1.5)),
        (r"gpt-5\.\d+-(mini|nano|codex)|gpt-5\.[23]", _Patches(1.2)),
        (r"gpt-(5\.[4-9]|[6-9]|\d\d)", _Patches(1.2, 2_500)),
        (r"gpt-5", _Tiles(70, 140)),
        (r"gpt-4o-mini", _Tiles(2833, 5667)),
        (r"(o1|o3)", _Tiles(75, 150)),
        (r"computer-use", _Tiles(65, 129)),
        (r"(.*\.)?claude", _Area()),
        (r"gemini", _LargeTiles()),
    )
)
_DEFAULT_FORMULA = _Tiles(85, 170)
# A remote image is never fetched: the formula is applied to this size.
_ASSUMED_SIZE = (1024, 1024)


def image_tokens(block: dict[str, Any], *, model: str | None) -> ImageTokens:
    """Return the tokens of an image block, in OpenAI's, Anthropic's or LangChain's form.

    The size is read from the header of inline images; `detail` defaults to high. A remote image
    is never fetched but taken to be 1,024 pixels square, and the result is marked as estimated.

    >>> low = {"type": "image_url", "image_url": {"url": "https://a.test/b.png", "detail": "low"}}
    >>> image_tokens(low, model="gpt-4o")
    ImageTokens(tokens=85, estimated=False)
    """
    name = bare_model_name(model or "")
    formula = next((f for pattern, f in _FORMULAE if pattern.match(name)), _DEFAULT_FORMULA)
    link = block.get("image_url")
    detail = link.get("detail") if isinstance(link, dict) else block.get("detail")
    size = _size_of(block)
    tokens = formula.tokens(*(size or _ASSUMED_SIZE), detail=str(detail or "auto"))
    sized = size is not None or (detail == "low" and isinstance(formula, _Tiles))
    return ImageTokens(tokens=tokens, estimated=not (sized and encoding_of(model).exact))


def _size_of(block: dict[str, Any]) -> tuple[int, int] | None:
    inner = block.get("image_url") or block.get("source") or block
    if isinstance(inner, str):
        inner = {"url": inner}
    url = str(inner.get("url") or "")
    encoded = inner.get("base64") or inner.get("data") or ""
    if url.startswith("data:"):
        encoded = url.partition("base64,")[2]
    return size_of_base64(str(encoded)) if encoded else None


def _scaled(width: int, height: int, *, by: tuple[int, int]) -> tuple[int, int]:
    return max(width * by[0] // by[1], 1), max(height * by[0] // by[1], 1)


def _grid(width: int, height: int, *, side: int) -> int:
    return -(-width // side) * -(-height // side)
