"""The width and height written in the header of a PNG, GIF, JPEG or WebP image."""

import base64
import binascii
import struct

# A JPEG may carry a thumbnail and a colour profile before its size.
_ENOUGH_BASE64 = 400_000


def size_of_base64(text: str) -> tuple[int, int] | None:
    """Return (width, height) of a base64-encoded image, `None` if it cannot be read.

    >>> size_of_base64("R0lGODlhAwACAAAAACw=")
    (3, 2)
    """
    start = text[:_ENOUGH_BASE64]
    try:
        return size_of_bytes(base64.b64decode(start + "=" * (-len(start) % 4)))
    except (binascii.Error, ValueError):
        return None


def size_of_bytes(image: bytes) -> tuple[int, int] | None:
    """Return (width, height) of an encoded image, `None` if it cannot be read."""
    size: tuple[int, int] | None = None
    try:
        if image.startswith(b"\x89PNG"):
            size = struct.unpack_from(">II", image, 16)
        elif image.startswith((b"GIF87a", b"GIF89a")):
            size = struct.unpack_from("<HH", image, 6)
        elif image.startswith(b"\xff\xd8"):
            size = _jpeg_size(image)
        elif image[:4] == b"RIFF" and image[8:12] == b"WEBP":
            size = _webp_size(image)
    except struct.error:
        return None
    return size if size and min(size) > 0 else None


def _jpeg_size(image: bytes) -> tuple[int, int] | None:
    at = 2
    while at < len(image):
        fill, marker = struct.unpack_from(">BB", image, at)
        if fill != 0xFF:
            return None
        if marker == 0xFF:  # padding before a marker
            at += 1
            continue
        (length,) = struct.unpack_from(">H", image, at + 2)
        # The frame headers SOF0 to SOF15; C4, C8 and CC lie among them and mean other things.
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from(">HH", image, at + 5)
            return width, height
        at += 2 + length
    return None


def _webp_size(image: bytes) -> tuple[int, int] | None:
    kind = image[12:16]
    if kind == b"VP8X":
        low_width, high_width, low_height, high_height = struct.unpack_from("<HBHB", image, 24)
        return (high_width << 16 | low_width) + 1, (high_height << 16 | low_height) + 1
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", image, 26)
        return width & 0x3FFF, height & 0x3FFF
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", image, 21)
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    return None
