"""What files and sounds cost in tokens: assumptions, because no provider documents a formula."""

import base64
import binascii
import re
from collections.abc import Callable
from typing import Any

# Anthropic's guide says 1,500 to 3,000 tokens for a page of a PDF.
_TOKENS_A_PAGE = 2_000
_PAGE = re.compile(rb"/Type\s*/Page(?![a-zA-Z])")
# OpenAI's guide: a token for 100 ms of sound that a user sends; Google's: 32 tokens a second.
_TOKENS_A_SECOND = 10
_GEMINI_TOKENS_A_SECOND = 32
_BYTES_A_SECOND = 16_000  # 128 kbit/s, where the header does not say


def file_tokens(block: dict[str, Any], *, count_text: Callable[[str], int]) -> int:
    """Return the assumed tokens of a file block; text is counted, a PDF by its pages.

    A file that is only named by an id or an address is taken to be one page.
    """
    kind, content = _content_of(block)
    if content is None:
        return _TOKENS_A_PAGE
    if kind.startswith("text/") or kind == "application/json":
        return count_text(content.decode(errors="replace"))
    return _TOKENS_A_PAGE * max(len(_PAGE.findall(content)), 1)


def audio_tokens(block: dict[str, Any], *, model: str | None) -> int:
    """Return the assumed tokens of an audio block, from its length; 0 if it holds no sound."""
    _, content = _content_of(block)
    if content is None:
        return 0
    rate = _BYTES_A_SECOND
    if content[:4] == b"RIFF" and content[8:12] == b"WAVE" and len(content) >= 44:
        rate = int.from_bytes(content[28:32], "little") or _BYTES_A_SECOND
    gemini = (model or "").rsplit("/", 1)[-1].startswith("gemini")
    tokens_a_second = _GEMINI_TOKENS_A_SECOND if gemini else _TOKENS_A_SECOND
    return -(-len(content) * tokens_a_second // rate)


def _content_of(block: dict[str, Any]) -> tuple[str, bytes | None]:
    """Return the mime type and the bytes of a block in LangChain's or a provider's form."""
    inner = next(
        (block[k] for k in ("file", "input_audio", "source") if isinstance(block.get(k), dict)),
        block,
    )
    kind = str(inner.get("mime_type") or inner.get("media_type") or "")
    encoded = inner.get("base64") or inner.get("data") or inner.get("file_data") or ""
    if not isinstance(encoded, str) or not encoded:
        text = inner.get("text")
        return (kind or "text/plain", text.encode()) if isinstance(text, str) else (kind, None)
    if inner.get("type") == "text":
        return kind or "text/plain", encoded.encode()
    if encoded.startswith("data:"):
        head, _, encoded = encoded.partition("base64,")
        kind = kind or head[5:].partition(";")[0]  # behind it stands the charset
    try:
        return kind, base64.b64decode(encoded)
    except (binascii.Error, ValueError):
        return kind, None
