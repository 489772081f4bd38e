"""What an image costs in tokens, by OpenAI's documented formulae.

https://platform.openai.com/docs/guides/images-vision#calculating-costs
"""

import base64
import binascii
import math
import struct
from dataclasses import dataclass
from typing import Any

from langchain_tokenopt.tokens.encodings import encoding_of


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageTokens:
    """The tokens of an image, and whether its size had to be assumed."""

    tokens: int
    estimated: bool


# Models that are billed by patches of 32 pixels: (factor, most patches).
_PATCHES = (
    ("gpt-4.1-mini", 1.62),
    ("gpt-4.1-nano", 2.46),
    ("gpt-5-mini", 1.62),
    ("gpt-5-nano", 2.46),
    ("o4-mini", 1.72),
)
_MOST_PATCHES = 1536
# Models that are billed by tiles of 512 pixels: (base, a tile).
_TILES = (
    ("gpt-4o-mini", 2833, 5667),
    ("gpt-5", 70, 140),
    ("o1", 75, 150),
    ("o3", 75, 150),
    ("computer-use-preview", 65, 129),
)
_DEFAULT_TILES = (85, 170)
# A remote image is never fetched: the formula is applied to a common size.
_ASSUMED = (1024, 1024)


def image_tokens(block: dict[str, Any], *, model: str | None) -> ImageTokens:
    """Return the tokens of an image block, OpenAI's or LangChain's form.

    >>> low = {"type": "image_url", "image_url": {"url": "https://a.test/b.png", "detail": "low"}}
    >>> image_tokens(low, model="gpt-4o")
    ImageTokens(tokens=85, estimated=False)
    """
    link = block.get("image_url")
    link = link if isinstance(link, dict) else {"url": link or block.get("url") or ""}
    detail = link.get("detail") or block.get("detail") or "auto"
    size = _size_of(str(link.get("url") or ""), block)
    exact = encoding_of(model).exact
    name = (model or "gpt-4o").removeprefix("ft:")
    for prefix, factor in _PATCHES:
        if name.startswith(prefix):
            tokens = math.ceil(_patches(*(size or _ASSUMED)) * factor)
            return ImageTokens(tokens=tokens, estimated=size is None or not exact)
    base, tile = next((t[1:] for t in _TILES if name.startswith(t[0])), _DEFAULT_TILES)
    if detail == "low":
        return ImageTokens(tokens=base, estimated=not exact)
    tokens = base + tile * _tiles(*(size or _ASSUMED))
    return ImageTokens(tokens=tokens, estimated=size is None or not exact)


def _tiles(width: int, height: int) -> int:
    """Scale into 2048 x 2048, then the shorter side to 768, and count tiles of 512."""
    scale = min(1.0, 2048 / max(width, height))
    width_, height_ = width * scale, height * scale
    scale = min(1.0, 768 / min(width_, height_))
    return math.ceil(width_ * scale / 512) * math.ceil(height_ * scale / 512)


def _patches(width: int, height: int) -> int:
    """Count patches of 32 pixels, scaled down to at most 1,536 of them."""
    across, down = width / 32, height / 32
    if math.ceil(across) * math.ceil(down) > _MOST_PATCHES:
        shrink = math.sqrt(_MOST_PATCHES / (across * down))
        fit = min(
            math.floor(across * shrink) / (across * shrink),
            math.floor(down * shrink) / (down * shrink),
        )
        across, down = across * shrink * fit, down * shrink * fit
    return min(math.ceil(across - 1e-9) * math.ceil(down - 1e-9), _MOST_PATCHES)


def _size_of(url: str, block: dict[str, Any]) -> tuple[int, int] | None:
    """Return the size written in the image's own header, `None` if it cannot be read."""
    text = url.partition("base64,")[2] if url.startswith("data:") else ""
    text = text or str(block.get("base64") or block.get("data") or "")
    if not text:
        return None
    try:
        # A JPEG may carry a long preview before its size.
        data = base64.b64decode(text[:400_000], validate=False)
    except (binascii.Error, ValueError):
        try:
            data = base64.b64decode(text[: len(text) // 4 * 4])
        except (binascii.Error, ValueError):
            return None
    return _header_size(data)


def _header_size(data: bytes) -> tuple[int, int] | None:
    size: tuple[int, int] | None = None
    try:
        if data.startswith(b"\x89PNG"):
            size = struct.unpack(">II", data[16:24])
        elif data.startswith((b"GIF87a", b"GIF89a")):
            size = struct.unpack("<HH", data[6:10])
        elif data.startswith(b"\xff\xd8"):
            size = _jpeg_size(data)
        elif data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            size = _webp_size(data)
    except (struct.error, IndexError):
        return None
    return size if size and min(size) > 0 else None


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    at = 2
    while at + 9 < len(data):
        marker, length = data[at + 1], struct.unpack(">H", data[at + 2 : at + 4])[0]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack(">HH", data[at + 5 : at + 9])
            return width, height
        at += 2 + length
    return None


def _webp_size(data: bytes) -> tuple[int, int] | None:
    kind = data[12:16]
    if kind == b"VP8X":
        return (
            int.from_bytes(data[24:27], "little") + 1,
            int.from_bytes(data[27:30], "little") + 1,
        )
    if kind == b"VP8 ":
        width, height = struct.unpack("<HH", data[26:30])
        return width & 0x3FFF, height & 0x3FFF
    if kind == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    return None
