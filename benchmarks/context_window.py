"""Does a shorter context cost less, and are the facts that later questions need still in it?

Generated conversations of an assistant with six tools: the user says things about themselves, asks
for data (tools answer with JSON lists of 8 to 30 rows), chats, and asks for what came up before:
something said (a code or a plain word), in the same words or
in others, or a value of a row, from any earlier turn. At each
such question the request is searched for the value. Every request is counted with tools and system
prompt, goes through OpenAI's prompt cache by its published rule, and is priced as gpt-5-mini
(input $0.25, cached $0.025, output $2.00 a million tokens); the calls of summarisers are billed at
the same prices. The summariser is a stand-in that keeps the lines with most numbers and names, up
to 400 tokens; it is the same for all. Answers of the assistant are part of the conversation, not
billed.

Each way is run at several sizes, so that it can be compared at equal facts:

- trim_messages of langchain-core, exact counts, starting on a human message
- SummarizationMiddleware and ContextEditingMiddleware of langchain, exact counts
- ContextWindow, with the strategies alone and with recall, by words and with StaticEmbeddings

Intervals are 95% over the conversations.
"""

import json
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, cast

from langchain.agents.middleware import (
    ClearToolUsesEdit,
    ContextEditingMiddleware,
    SummarizationMiddleware,
)
from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
    convert_to_openai_messages,
    trim_messages,
)
from langgraph.graph.message import add_messages
from measure import arguments, table

from langchain_tokenopt import counter_for
from langchain_tokenopt.embeddings import StaticEmbeddings
from langchain_tokenopt.prompts.context import ContextWindow
from langchain_tokenopt.prompts.context_strategy import specificity
from langchain_tokenopt.testing import PromptCache, ScriptedModel

MODEL = "gpt-5-mini"
INPUT, CACHED, OUTPUT = Decimal("0.25"), Decimal("0.025"), Decimal(2)
COUNTER = counter_for(MODEL)
NOTES = 400

SYSTEM = " ".join(
    f"Rule {n}: {rule}"
    for n, rule in enumerate(
        [
            "You are the assistant of a shop that sells books, records and instruments.",
            "Answer in the language of the customer, briefly, and never guess an order's state.",
            "Look data up with the tools before you speak of it, and name the source.",
            "Prices are in euros and include taxes; postage is shown apart.",
            "A return is possible within thirty days if the seal of a record is whole.",
            "Instruments are tuned before they leave and are insured on their way.",
            "Do not speak of other customers, of staff, or of how these rules came about.",
            "Offer a person of the staff whenever a customer asks for one or is upset.",
        ]
        * 3,
        start=1,
    )
)
TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": f"Return the {name.removeprefix('get_')} of the customer, newest first.",
            "parameters": {
                "type": "object",
                "properties": {
                    "since": {"type": "string", "description": "First day, as YYYY-MM-DD."},
                    "limit": {"type": "integer", "description": "The most rows to return."},
                },
                "required": ["since"],
            },
        },
    }
    for name in (
        "get_orders", "get_invoices", "get_parcels", "get_returns", "get_tickets", "get_vouchers",
    )
]  # fmt: skip
# Said, asked in the same words, asked in others.
SAID = [
    ("My delivery address is {v}.", "What is my delivery address?", "Where will you send things?"),
    ("I am allergic to {v}.", "What am I allergic to?", "Is there a food that I must not have?"),
    ("My dog's name is {v}.", "What is my dog's name?", "How do I call my pet?"),
    ("Please call me {v} from now on.", "What should you call me?", "Which nickname did I give?"),
    ("My budget for the guitar is {v} euros.", "What is my budget for the guitar?",
     "How much can I spend on the instrument?"),
    ("My daughter's birthday is on {v}.", "When is my daughter's birthday?",
     "By which day do I need the present for my kid?"),
    ("The voucher I got by mail is {v}.", "Which voucher did I get by mail?",
     "What was the code for the discount?"),
    ("I play in a band called {v}.", "What is the band called that I play in?",
     "What is the name of my music group?"),
    ("My tax number is {v}.", "What is my tax number?", "Which id goes on my company's bill?"),
    ("I want the black one, model {v}.", "Which model of the black one do I want?",
     "Which version did I decide on?"),
    ("You can reach me at {v} after six.", "Where can you reach me after six?",
     "What is the phone to ring in the evening?"),
    ("The courier should leave it with {v} next door.", "Who next door takes the courier's parcel?",
     "Which neighbour accepts deliveries?"),
]  # fmt: skip
CODED = {SAID[n][0] for n in (0, 4, 5, 6, 8, 10)}
"""Their values hold a number; those of the others are plain words."""
WORDS = (
    "marzipan saffron velvet thistle nougat pumice basil walnut clover sesame cumin teasel".split()
)
CHAT = [
    ("Thanks, that is kind of you!", "You are welcome. Is there anything else that I can do?"),
    ("I have been listening to a lot of jazz lately.", ("Lovely! The new pressings of the classic "
     "labels sound very good, and many are in the shop at the moment.")),
    ("The weather here is dreadful.", "I am sorry to hear that. A good day for a book, then."),
    ("Do you ever sleep?", "I am here at any time of the day. How can I help you further?"),
    ("My old record player broke last year.", ("That is a pity. Some of the makers still repair "
     "players of the seventies, and parts are easy to find these days.")),
    ("I will think about it.", ("Take all the time you need; nothing is reserved until you say "
     "so, and nothing is charged before it leaves the house.")),
]  # fmt: skip


@dataclass
class Question:
    """At which request a value of an earlier turn is asked for."""

    request: int
    value: str
    kind: str
    """`said`, `paraphrased` or `row`."""


@dataclass
class Conversation:
    """The requests that an agent makes, each the conversation so far."""

    requests: list[list[BaseMessage]] = field(default_factory=list)
    questions: list[Question] = field(default_factory=list)


def conversation(seed: int, turns: int) -> Conversation:
    """Return a generated conversation."""
    rng = random.Random(seed)
    made, messages = Conversation(), [cast("BaseMessage", SystemMessage(SYSTEM))]
    facts: list[tuple[str, str, str]] = []
    unsaid, words = rng.sample(SAID, len(SAID)), rng.sample(WORDS, len(WORDS))

    def ask(text: str) -> None:
        messages.append(HumanMessage(text))
        made.requests.append(list(messages))

    for turn in range(turns):
        what = rng.random()
        if what < 0.2 and unsaid:
            said, same, other = unsaid.pop()
            value = _code(rng) if said in CODED else words.pop()
            ask(said.format(v=value))
            messages.append(AIMessage("Noted."))
            facts += [(same, value, "said"), (other, value, "paraphrased")]
        elif what < 0.55:
            tool = rng.choice(TOOLS)["function"]["name"]
            noun = tool.removeprefix("get_")
            rows = _rows(rng, noun)
            ask(f"Please show me my {noun} since {rows[-1]['date']}.")
            call = {"name": tool, "args": {"since": rows[-1]["date"]}, "id": f"call_{turn}"}
            messages.append(AIMessage("", tool_calls=[call]))
            messages.append(ToolMessage(json.dumps(rows), tool_call_id=call["id"], name=tool))
            made.requests.append(list(messages))
            first = rows[0]
            messages.append(
                AIMessage(f"There are {len(rows)} {noun}; the newest is {first['id']} of "
                          f"{first['date']}, {first['state']}.")
            )  # fmt: skip
            row = rng.choice(rows)
            facts.append((f"What is the code of {row['id']}?", str(row["code"]), "row"))
        elif what < 0.75 or not facts:
            said, answer = rng.choice(CHAT)
            ask(said)
            messages.append(AIMessage(answer))
        else:
            question, value, kind = facts.pop(rng.randrange(len(facts)))
            ask(question)
            made.questions.append(Question(len(made.requests) - 1, value, kind))
            messages.append(AIMessage("Here it is, as you asked."))
    return made


def _code(rng: random.Random) -> str:
    names = "Quill Marrow Tansy Bracken Fennel Juniper Larkspur Osprey Sorrel Wren".split()
    return f"{rng.choice(names)}-{rng.randrange(1000, 9999)}"


def _rows(rng: random.Random, noun: str) -> list[dict[str, Any]]:
    states = ["open", "paid", "on its way", "delivered", "sent back"]
    titles = ["Blue in Green", "The Trout Quintet", "Acoustic guitar", "A History of Silence"]
    return [
        {
            "id": f"{noun[:3].upper()}-{rng.randrange(10**5, 10**6)}",
            "date": f"2026-{rng.randrange(1, 11):02}-{rng.randrange(1, 28):02}",
            "title": rng.choice(titles),
            "amount": round(rng.uniform(5, 900), 2),
            "state": rng.choice(states),
            "code": f"{rng.randrange(16**7):07X}",
        }
        for _ in range(rng.randrange(8, 31))
    ]


def summarise(messages: list[BaseMessage]) -> str:
    """Return the lines of a prompt that hold most numbers and names, up to a number of tokens."""
    text = str(messages[-1].text)
    text = text.rsplit("Messages to summarize:", maxsplit=1)[-1].replace("</messages>", "")
    text = text.rsplit("\n\nNew notes", 1)[0]
    pieces = dict.fromkeys(
        piece.strip() for piece in re.split(r"\n|(?<=[.!?]) |(?<=\}), ", text) if piece.strip()
    )
    room, kept = NOTES, set()
    for piece in sorted(pieces, key=lambda p: -specificity(p) / COUNTER.count_text(p) ** 0.5):
        tokens = COUNTER.count_text(piece) + 1
        if tokens <= room:
            kept.add(piece)
            room -= tokens
    return "\n".join(piece for piece in pieces if piece in kept)


@dataclass
class Bill:
    """What one way costs on one conversation."""

    tokens: int = 0
    cached: int = 0
    dollars: Decimal = Decimal(0)
    kept: dict[str, list[bool]] = field(default_factory=dict)

    def add(self, read: int, cached: int, written: int = 0) -> None:
        """Add a request."""
        self.tokens += read
        self.cached += cached
        plain = read - cached
        self.dollars += (INPUT * plain + CACHED * cached + OUTPUT * written) / 1_000_000

    @property
    def found(self) -> list[bool]:
        """Whether each value was there."""
        return [each for kind in self.kept.values() for each in kind]


class Billed:
    """A summariser that is billed."""

    def __init__(self) -> None:
        self.bill = Bill()
        self.model = ScriptedModel(
            [self._answer], when_exhausted="repeat_last", model_name=MODEL, provider="openai"
        )

    def _answer(self, messages: list[BaseMessage]) -> str:
        written = summarise(messages)
        self.bill.add(COUNTER.count_messages(messages), 0, COUNTER.count_text(written))
        return written


# Gives the messages of a request, from those before it (`None` for the first) and the whole.
Way = Callable[[list[BaseMessage]], list[BaseMessage]]
MakeWay = Callable[[Billed], Way]


def everything(_: Billed) -> Way:
    """Send everything."""
    return lambda messages: messages


def trimmed(most: int) -> MakeWay:
    """Trim as langchain-core does."""

    def make(_: Billed) -> Way:
        def way(messages: list[BaseMessage]) -> list[BaseMessage]:
            return trim_messages(
                messages,
                max_tokens=most,
                strategy="last",
                token_counter=lambda given: COUNTER.count_messages(given, tools=TOOLS),
                include_system=True,
                start_on="human",
            )

        return way

    return make


def summarised(most: int) -> MakeWay:
    """Summarise as langchain's middleware does, which changes the state."""

    def make(billed: Billed) -> Way:
        middleware = SummarizationMiddleware(
            billed.model,
            trigger=("tokens", most),
            keep=("tokens", most // 2),
            token_counter=lambda given: COUNTER.count_messages(list(given), tools=TOOLS),
        )
        state: list[BaseMessage] = []
        seen = [1]  # the system prompt is apart

        def way(messages: list[BaseMessage]) -> list[BaseMessage]:
            nonlocal state
            # A copy: the middleware gives messages ids.
            new = [message.model_copy() for message in messages[seen[0] :]]
            state = cast("list[BaseMessage]", add_messages(state, new))
            seen[0] = len(messages)
            update = middleware.before_model({"messages": state}, None)
            if update:
                state = cast("list[BaseMessage]", add_messages(state, update["messages"]))
            return [messages[0], *state]

        return way

    return make


def cleared(most: int) -> MakeWay:
    """Clear results of tools as langchain's middleware does."""

    def make(_: Billed) -> Way:
        edit = ClearToolUsesEdit(trigger=most, keep=3)
        assert ContextEditingMiddleware(edits=[edit]).edits == [edit]

        def way(messages: list[BaseMessage]) -> list[BaseMessage]:
            copied = list(messages)
            edit.apply(
                cast("Any", copied),
                count_tokens=lambda given: COUNTER.count_messages(list(given), tools=TOOLS),
            )
            return copied

        return way

    return make


def window(most: int, *, summary: bool = False, **options: Any) -> MakeWay:
    """Use the context window."""

    def make(billed: Billed) -> Way:
        summarizer = billed.model if summary else None
        made = ContextWindow(MODEL, max_tokens=most, tools=TOOLS, summarizer=summarizer, **options)
        return lambda messages: list(made.fit(messages).messages)

    return make


def play(talk: Conversation, make: MakeWay) -> Bill:
    """Return what a way costs on a conversation, and which values it kept."""
    cache, billed = PromptCache(clock=lambda: 0.0), Billed()
    way, bill = make(billed), billed.bill
    asked = {question.request: question for question in talk.questions}
    for number, messages in enumerate(talk.requests):
        sent = way(messages)
        read = COUNTER.count_messages(sent, tools=TOOLS)
        body = {"model": MODEL, "messages": convert_to_openai_messages(sent), "tools": TOOLS}
        cached, _ = cache.read(body, input_tokens=read, count_text=COUNTER.count_text)
        bill.add(read, cached)
        question = asked.get(number)
        if question is not None:
            there = any(question.value in str(message.text) for message in sent)
            bill.kept.setdefault(question.kind, []).append(there)
    return bill


def interval(bills: Sequence[Bill], of: Callable[[Sequence[Bill]], float]) -> str:
    """Return a figure with its 95% bootstrap interval over the conversations."""
    rng = random.Random(0)
    draws = sorted(of(rng.choices(bills, k=len(bills))) for _ in range(1_000))
    return f"{draws[25]:.3g} to {draws[974]:.3g}"


def dollars(bills: Sequence[Bill]) -> float:
    """Return the cost of a conversation in cents."""
    return float(100 * sum((bill.dollars for bill in bills), Decimal(0)) / len(bills))


def facts(bills: Sequence[Bill], kind: str | None = None) -> float:
    """Return the share of values that were there, in percent."""
    found = [x for b in bills for x in (b.kept.get(kind, []) if kind else b.found)]
    return 100 * sum(found) / max(len(found), 1)


def main() -> None:
    """Play all ways and print a table."""
    quick = arguments(__doc__).quick
    talks = [conversation(seed, 20 if quick else 60) for seed in range(3 if quick else 24)]
    embeddings = StaticEmbeddings()
    sizes = (4_000,) if quick else (4_000, 6_000, 9_000, 14_000)
    ways: dict[str, MakeWay] = {"everything": everything}
    for size in sizes:
        ways[f"trim_messages {size:,}"] = trimmed(size)
        ways[f"SummarizationMiddleware {size:,}"] = summarised(size)
        ways[f"ContextEditingMiddleware {size:,}"] = cleared(size)
        ways[f"recent {size:,}"] = window(size, strategy="recent", recall=None)
        ways[f"importance {size:,}"] = window(size, recall=None)
        ways[f"recent, recall {size:,}"] = window(size, strategy="recent")
        ways[f"importance, recall {size:,}"] = window(size)
        ways[f"importance, recall, embeddings {size:,}"] = window(size, embeddings=embeddings)
        ways[f"recent, summary, recall {size:,}"] = window(size, strategy="recent", summary=True)
    rows = []
    for name, make in ways.items():
        bills = [play(talk, make) for talk in talks]
        tokens = sum(bill.tokens for bill in bills)
        rows.append(
            [
                name,
                f"{tokens / len(bills):,.0f}",
                f"{sum(bill.cached for bill in bills) / tokens:.0%}",
                f"{dollars(bills):.2f} ({interval(bills, dollars)})",
                f"{facts(bills):.0f}% ({interval(bills, facts)})",
                *(f"{facts(bills, kind):.0f}%" for kind in ("said", "paraphrased", "row")),
            ]
        )
    head = ["way, tokens at most", "tokens", "cached", "cents", "facts kept", "said",
            "in other words", "rows"]  # fmt: skip
    sent = sum(len(talk.requests) for talk in talks)
    asked = sum(len(talk.questions) for talk in talks)
    table(f"{len(talks)} conversations, {sent} requests, {asked} questions", head, rows)


if __name__ == "__main__":
    main()
