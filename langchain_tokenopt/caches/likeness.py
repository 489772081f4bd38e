"""What two questions have in common, and what keeps them apart whatever a distance says."""

import math
import re
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

_WORD = re.compile(r"[^\W_]+(?:['\u2019][^\W_]+)?")
_NUMBER = re.compile(r"\d+(?:[.,:/\-]\d+)*")
_QUOTED = re.compile(r"[\"\u201c\u201d`]([^\"\u201c\u201d`]{2,})[\"\u201c\u201d`]")
_NAME = re.compile(r"(?<=[a-z,;] )([A-Z][\w&]*(?:\([a-z]\))?)|\b([A-Z]{2,}s?)\b")
_ASKS = re.compile(r"\b(why|when|who|whose|how)\b")
_NEGATION = frozenset(
    "not no never none nobody nothing neither nor without cannot cant wont dont doesnt didnt isnt"
    " arent wasnt werent couldnt shouldnt wouldnt havent hasnt hadnt unable fail fails failed"
    " failing declined denied rejected".split()
)
_FREE = frozenset(
    "a an the of in on at by for to from with and or but if is are was were be been being am"
    " do does did have has had can could will would shall should may might must i me my mine"
    " we us our you your he she it its they them their this that these those there here what"
    " which who whom whose when where why how please hi hello hey thanks thank want need like"
    " know tell get got just also so as than then about into out up some any all im ive id"
    " whats hows lets let".split()
)
# With one of these the order of the others matters: from A to B.
_DIRECTIONS = frozenset("to from into than before after by over versus vs against".split())
_TO_AND_FROM = frozenset({"to", "from"})
_OPPOSITES = tuple(
    tuple(pair.split("/"))
    for pair in (
        "buy/sell buying/selling bought/sold purchase/sale long/short call/put rise/fall"
        " rises/falls rising/falling up/down increase/decrease raise/lower higher/lower"
        " more/less most/least maximum/minimum max/min gain/loss gains/losses profit/loss"
        " profit/hedge win/lose deposit/withdraw deposit/withdrawal lend/borrow"
        " lending/borrowing lender/borrower owe/refund debit/credit income/deduction"
        " taxable/deductible assets/liabilities enable/disable on/off open/close"
        " opening/closing opened/closed start/stop begin/end before/after first/last"
        " earliest/latest old/new add/remove install/uninstall create/delete lock/unlock"
        " block/unblock freeze/unfreeze activate/deactivate accept/reject accept/decline"
        " approve/deny allow/forbid allow/block include/exclude send/receive sent/received"
        " sender/recipient import/export upload/download push/pull encrypt/decrypt"
        " connect/disconnect login/logout subscribe/unsubscribe arrive/depart"
        " arrival/departure left/right north/south east/west hot/cold public/private"
        " inside/outside internal/external domestic/international male/female single/married"
        " early/late cheap/expensive cheapest/priciest best/worst good/bad safe/dangerous"
        " easy/hard realized/unrealized ordinary/capital market/limit pre/post cash/margin"
        " inherited/gifted traditional/roth individual/mutual positive/negative true/false"
        " yes/no with/without always/never same/different fixed/variable gross/net"
        " asset/liability bull/bear"
    ).split()
)
_OPPOSITE_OF: dict[str, frozenset[str]] = {}
for _one, _other in _OPPOSITES:
    _OPPOSITE_OF[_one] = _OPPOSITE_OF.get(_one, frozenset()) | {_other}
    _OPPOSITE_OF[_other] = _OPPOSITE_OF.get(_other, frozenset()) | {_one}


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """A question taken apart."""

    words: tuple[str, ...]
    content: tuple[str, ...]
    """Words that carry meaning, in their order."""
    bag: frozenset[str]
    stems: frozenset[str]
    """Of the words that carry meaning, without negations."""
    numbers: frozenset[str]
    quoted: frozenset[str]
    names: frozenset[str]
    negated: bool
    asks: str
    """Why, when, who or how; "" if it says none of them."""


@lru_cache(maxsize=10_000)
def read(text: str) -> Reading:
    """Return a question taken apart.

    >>> read("Can I withdraw 50 EUR without my card?").content
    ('withdraw', '50', 'eur', 'without', 'card')
    """
    words = tuple(
        word.lower().replace("'", "").replace("\u2019", "") for word in _WORD.findall(text)
    )
    names = frozenset(
        (one or other).lower().rstrip("s")
        for one, other in _NAME.findall(text)
        if (one or other) != "I"
    )
    content = tuple(word for word in words if word not in _FREE)
    return Reading(
        words=words,
        content=content,
        bag=frozenset(words),
        stems=frozenset(_stem(word) for word in content if word not in _NEGATION),
        numbers=frozenset(_NUMBER.findall(text)),
        quoted=frozenset(text.lower() for text in _QUOTED.findall(text)),
        names=names,
        negated=sum(word in _NEGATION for word in words) % 2 == 1,
        asks=next(iter(_ASKS.findall(text.lower())), ""),
    )


def veto(asked: str, cached: str) -> str | None:
    """Return why the answer to `cached` must not be served for `asked`, `None` if nothing says so.

    Rules that a distance between vectors does not see: other numbers, dates, quoted words or names,
    one of them negated, why against how, opposites, the same words in another order, and one word
    of meaning in the place of another in an otherwise equal sentence. English.

    >>> veto("Should I sell the stock?", "Should I buy the stock?")
    "opposites: 'sell' and 'buy'"
    """
    a, b = read(asked), read(cached)
    if a.numbers != b.numbers:
        return f"other numbers: {sorted(a.numbers ^ b.numbers)}"
    if a.quoted != b.quoted:
        return f"other quoted text: {sorted(a.quoted ^ b.quoted)}"
    if a.negated != b.negated:
        return "one of them is negated"
    only_a, only_b = a.bag - b.bag, b.bag - a.bag
    for word in sorted(only_a):
        against = _OPPOSITE_OF.get(word, frozenset()) & only_b
        if against:
            return f"opposites: {word!r} and {min(against)!r}"
    if a.names - b.names and b.names - a.names:
        return f"other names: {sorted(a.names ^ b.names)}"
    return _same_sentence_other_words(a, b)


def _same_sentence_other_words(a: Reading, b: Reading) -> str | None:
    swapped = a.content != b.content and Counter(a.content) == Counter(b.content)
    if swapped and a.bag & _DIRECTIONS:
        return "the same words in another order"
    if a.stems == b.stems and (a.bag ^ b.bag) >= _TO_AND_FROM:
        return "one says to, the other from"
    if a.stems == b.stems and a.asks and b.asks and a.asks != b.asks:
        return f"one asks {a.asks}, the other {b.asks}"
    only_a = [word for word in a.content if word not in b.bag]
    only_b = [word for word in b.content if word not in a.bag]
    shared = len(set(a.content) & set(b.content))
    few = 0 < len(only_a) <= 2 and 0 < len(only_b) <= 2
    if few and not _related(only_a, only_b) and _frame(a, only_a) == _frame(b, only_b) and shared:
        return f"one sentence, other words: {only_a} and {only_b}"
    return None


def _frame(reading: Reading, without: Sequence[str]) -> frozenset[str]:
    return reading.bag.difference(without)


def _related(one: Sequence[str], other: Sequence[str]) -> bool:
    """Return whether the words are forms of each other: card and cards, pay and paid."""
    return all(any(_stem(a) == _stem(b) for b in other) for a in one)


def _stem(word: str) -> str:
    for ending in ("ing", "ies", "ed", "es", "s", "ly"):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            return word[: -len(ending)][:6]
    return word[:6]


class WordWeights:
    """How rare words are among the questions kept so far (inverse document frequency)."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seen: Counter[str] = Counter()
        self._questions = 0

    def add(self, text: str) -> None:
        """Count a question."""
        with self._lock:
            self._seen.update(read(text).bag)
            self._questions += 1

    def weight(self, word: str) -> float:
        """Return log((questions + 1) / (questions with the word + 1))."""
        return math.log((self._questions + 1) / (self._seen.get(word, 0) + 1))

    @property
    def questions(self) -> int:
        """How many questions were counted."""
        return self._questions

    @property
    def highest(self) -> float:
        """The weight of a word never seen, at least 1."""
        return max(math.log(self._questions + 2), 1.0)
