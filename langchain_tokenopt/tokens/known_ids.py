"""Texts whose ids are known, to prove an encoder before its counts are believed.

An encoder that lost its vocabulary still answers, with one id a byte, and nothing else would tell.
The ids are tiktoken's, from OpenAI's own files.
"""

from collections.abc import Callable, Sequence

KNOWN_IDS: dict[str, dict[str, tuple[int, ...]]] = {
    "o200k_base": {
        "hello world": (24912, 2375),
        "def f(x):\n    return x+1\n": (1314, 285, 4061, 1883, 271, 622, 1215, 10, 16, 198),
        "   \n\t  ": (10190, 18242),
        "数学の問題": (174242, 3385, 162565),
        "Привет, мир": (23881, 131903, 11, 37934),
        '{"a": [1, 2, 3]}': (10848, 64, 1243, 723, 16, 11, 220, 17, 11, 220, 18, 28000),
        "<|endoftext|>": (27, 91, 419, 1440, 919, 91, 29),
        "🙂👍": (37459, 82514),
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa": (117525, 117525, 117525, 117525, 117525),
        "1234567890": (7633, 19354, 29338, 15),
        "It's 5 o'clock; don't": (15834, 220, 20, 293, 141801, 26, 4128),
        "HTTPServerError": (17893, 6444, 2255),
        "Å café naïve": (32, 110718, 30469, 153475, 737),
        "مرحبا بالعالم": (158894, 26537, 101462, 12773),
        "नमस्ते दुनिया": (998, 1637, 14681, 628, 64593),
        "안녕하세요 세계": (14307, 171731, 75755),
        "//----\r\n\r\n  x": (393, 518, 1414, 220, 1215),
        "a\x00b": (64, 188, 65),
        "ΑΒΓ αβγ ǅ": (8427, 35144, 23628, 3793, 6331, 2728, 220, 131, 227),
        "x = 0x1F;\t\t// 100%": (87, 314, 220, 15, 87, 16, 37, 26, 197, 197, 393, 220, 1353, 4),
    },
    "cl100k_base": {
        "hello world": (15339, 1917),
        "def f(x):\n    return x+1\n": (755, 282, 2120, 997, 262, 471, 865, 10, 16, 198),
        "   \n\t  ": (5996, 8860),
        "数学の問題": (9039, 48864, 16144, 99397, 14167, 234),
        "Привет, мир": (54745, 28089, 8341, 11, 11562, 78746),
        '{"a": [1, 2, 3]}': (5018, 64, 794, 510, 16, 11, 220, 17, 11, 220, 18, 14316),
        "<|endoftext|>": (27, 91, 8862, 728, 428, 91, 29),
        "🙂👍": (9468, 19044, 9468, 239, 235),
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa": (70540, 70540, 70540, 70540, 70540),
        "1234567890": (4513, 10961, 16474, 15),
        "It's 5 o'clock; don't": (2181, 596, 220, 20, 297, 63510, 26, 1541, 956),
        "HTTPServerError": (9412, 39609),
        "Å café naïve": (32, 136, 232, 53050, 95980, 588),
        "مرحبا بالعالم": (10386, 11318, 30925, 22071, 5821, 28946, 32482, 24102, 32482, 10386),
        "नमस्ते दुनिया": (
            61196,
            88344,
            79468,
            31584,
            97,
            35470,
            15272,
            99,
            73753,
            61196,
            43411,
            107,
            24810,
        ),
        "안녕하세요 세계": (31495, 230, 75265, 243, 92245, 28867, 116, 22783, 226),
        "//----\r\n\r\n  x": (322, 381, 881, 220, 865),
        "a\x00b": (64, 188, 65),
        "ΑΒΓ αβγ ǅ": (138, 239, 138, 240, 138, 241, 19581, 52355, 60474, 220, 131, 227),
        "x = 0x1F;\t\t// 100%": (87, 284, 220, 15, 87, 16, 37, 26, 197, 197, 322, 220, 1041, 4),
    },
}


def first_mismatch(
    encoding: str, ids: Callable[[str], Sequence[int]], count: Callable[[str], int]
) -> str | None:
    """Return the first text that `ids` or `count` gets wrong, `None` if all are right."""
    for text, expected in KNOWN_IDS[encoding].items():
        if tuple(ids(text)) != expected or count(text) != len(expected):
            return text
    return None
