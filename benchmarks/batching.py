"""What do combined requests cost an item, and does every item get its own answer?

Through `ChatOpenAI` to a loopback server that simulates OpenAI's prompt cache, priced as
gpt-5-mini. An answer is one short code, which the item holds, so that each item has its own.

1. Tokens and dollars an item, by the size of a request and the length of the instruction, with
   what `plan_batching` predicts beside it. "1" is one item a request, its prefix cached from 1,024
   tokens on.
2. Wrong answers by the place of an item in its request, for a model that errs more towards the end
   (2% more with each place: made up, to show what `shuffle` does; papers find such slopes).
3. 10,000 items where one combined answer in ten is malformed: entries missing, double, of unknown
   ids, swapped between two ids, cut off, or no JSON. Lost: no answer. Swapped: another item's.
   "zip" reads the answers by their order, as simple code does.
"""

import json
import random
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any

from langchain_openai import ChatOpenAI
from measure import arguments, table

from langchain_tokenopt import UsageLedger
from langchain_tokenopt.advisor import plan_batching
from langchain_tokenopt.batching import CombinedBatch
from langchain_tokenopt.testing import LoopbackServer, PromptCache, Reply
from langchain_tokenopt.testing.wire import ChatRequest

MODEL = "gpt-5-mini"
SHORT = "Say whether the customer's message is about a parcel, a return, a price or something else."
LONG = " ".join(
    f"{SHORT} Rule {n}: decide by what the customer wants in the end." for n in range(60)
)
Change = Callable[[list[dict[str, Any]]], Any]


def main() -> None:
    """Print the three tables."""
    quick = arguments(__doc__).quick
    costs(400 if quick else 2_000)
    places(800 if quick else 8_000)
    malformed(500 if quick else 10_000)


def costs(n: int) -> None:
    """Show what an item costs."""
    rows = []
    items = [
        f"Message {k}: where is what I ordered on day {k % 30}, and who has it?" for k in range(n)
    ]
    for name, instruction in (("short", SHORT), ("long", LONG)):
        for size in (1, 4, 8, 16, 32):
            ledger = UsageLedger()
            with served(same, prompt_cache=PromptCache()) as server:
                batch = CombinedBatch(
                    chat(server), instruction=instruction, max_items=size, max_tokens=100_000
                )
                batch.batch(items, {"callbacks": [ledger], "max_concurrency": 1})
            total = ledger.totals()
            usage = total.usage
            alone = usage.input_tokens // n if size == 1 else None
            if alone is not None:
                lengths = (alone - 20, 20, round(usage.output / n))
            plan = plan_batching(
                MODEL, prefix_tokens=lengths[0], item_tokens=lengths[1], output_tokens=lengths[2],
                items=n, every_s=0.1, sizes=(size,), retry_share=0.0,
            )  # fmt: skip
            told = next(o.cost for o in plan.options if o.items_a_request == size)
            rows.append(
                [
                    name, str(size), f"{usage.input_tokens / n:.0f}",
                    f"{usage.cache_read / usage.input_tokens:.0%}", f"{usage.output / n:.1f}",
                    f"{1000 * total.cost / n:.4f}", f"{1000 * (told or Decimal(0)):.4f}",
                ]
            )  # fmt: skip
    head = ["instruction", "items a request", "input an item", "cached", "output an item",
            "dollars for 1,000", "predicted"]  # fmt: skip
    table(f"{n} items", head, rows)


def places(n: int) -> None:
    """Show wrong answers by place."""
    rows = []
    items = [f"{k} is the item" for k in range(n)]
    for name, shuffle in (("as given", None), ("shuffle", random.Random(2))):
        rng = random.Random(1)

        def tired(made: list[dict[str, Any]], rng: random.Random = rng) -> Any:
            for place, entry in enumerate(made):
                if rng.random() < 0.02 * place:
                    entry["answer"] = "WRONG"
            return made

        with served(tired) as server:
            batch = CombinedBatch(
                chat(server), instruction=SHORT, max_items=16, shuffle=shuffle, max_requests=1
            )
            answers = batch.batch(items)
        wrong = [answer == "WRONG" for answer in answers]
        by_place = [sum(wrong[place::16]) / len(wrong[place::16]) for place in range(16)]
        cells = [f"{sum(by_place[k : k + 4]) / 4:.1%}" for k in (0, 4, 8, 12)]
        rows.append([name, *cells, f"{sum(wrong) / n:.1%}"])
    head = ["order", "items 1-4 of 16", "5-8", "9-12", "13-16", "all"]
    table(
        f"Wrong answers of a model that tires, {n} items, by the item's place in its list",
        head,
        rows,
    )


def malformed(n: int) -> None:
    """Show lost and swapped answers."""
    rows = []
    items = [f"{100_003 + 89 * k} is item {k}" for k in range(n)]
    for name, options in (("ids and echo (default)", {}), ("ids alone", {"echo_words": 0})):
        with served(breaking(random.Random(3))) as server:
            batch = CombinedBatch(chat(server), instruction=SHORT, **options)
            answers: Sequence[Any] = batch.batch(items, return_exceptions=True)
            tokens = sum(usage["total_tokens"] for usage in server.billed)
        rows.append([name, *judged(items, answers), str(batch.stats.singles), f"{tokens / n:.0f}"])
    with served(breaking(random.Random(3))) as server:
        batch = CombinedBatch(chat(server), instruction=SHORT)
        wire, asking = batch._solver._wire, batch._solver._together
        answers = []
        for at in range(0, n, 8):
            part = items[at : at + 8]
            raw = asking.invoke(wire.messages(wire.items(part)))
            answers += zipped(str(raw.text), len(part))
        tokens = sum(usage["total_tokens"] for usage in server.billed)
    rows.append(["zip", *judged(items, answers), "0", f"{tokens / n:.0f}"])
    head = ["reading", "right", "lost", "swapped", "asked again alone", "tokens an item"]
    table(f"{n} items, one combined answer in ten malformed", head, rows)


def code(item: str) -> str:
    """Return the answer to an item."""
    return item.split(maxsplit=1)[0]


def zipped(text: str, n: int) -> list[Any]:
    """Return answers by their order."""
    try:
        found = [entry.get("answer") for entry in json.loads(text)["answers"]]
    except (ValueError, KeyError, AttributeError):
        found = []
    return [*found, *[None] * n][:n]


def judged(items: Sequence[str], answers: Sequence[Any]) -> list[str]:
    """Return how many answers are right, lost and another item's."""
    right = sum(code(item) == answer for item, answer in zip(items, answers, strict=True))
    lost = sum(not isinstance(answer, str) for answer in answers)
    return [str(right), str(lost), str(len(items) - right - lost)]


def breaking(rng: random.Random) -> Change:
    """Return what malforms one answer in ten."""

    def change(made: list[dict[str, Any]]) -> Any:
        if rng.random() > 0.1 or len(made) < 2:
            return made
        kind = rng.randrange(6)
        if kind == 0:
            made = made[: rng.randrange(len(made))]
        elif kind == 1:
            made = [*made, {**made[0], "answer": made[1]["answer"]}]
        elif kind == 2:
            made[rng.randrange(len(made))]["id"] = "ffffff"
        elif kind == 3:
            one, two = rng.sample(range(len(made)), 2)
            made[one]["id"], made[two]["id"] = made[two]["id"], made[one]["id"]
        elif kind == 4:
            text = json.dumps({"answers": made})
            return text[: rng.randrange(len(text))]
        else:
            return "I am sorry, I cannot do that."
        return made

    return change


def same(made: list[dict[str, Any]]) -> Any:
    """Change nothing."""
    return made


def served(change: Change, **options: Any) -> LoopbackServer:
    """Return a server that repeats items in capitals."""

    def answer(request: ChatRequest) -> Reply:
        text = request.text
        if not text.startswith("{"):
            return Reply(text=code(text))
        given = json.loads(text)
        words = given.get("echo_words", 0)
        made = [
            {
                "id": item["id"],
                **({"echo": " ".join(item["item"].split()[:words])} if words else {}),
                "answer": code(item["item"]),
            }
            for item in given["items"]
        ]
        changed = change(made)
        return Reply(text=changed if isinstance(changed, str) else json.dumps({"answers": changed}))

    return LoopbackServer(answer, **options)


def chat(server: LoopbackServer) -> ChatOpenAI:
    """Return a model that asks the server."""
    return ChatOpenAI(model=MODEL, base_url=server.base_url, api_key="any")  # type: ignore[arg-type]  # pydantic makes a secret of it


if __name__ == "__main__":
    main()
