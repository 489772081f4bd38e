"""Fine-tuning: when it pays, which tasks it might suit, what is exported, and what is not."""

import argparse
import base64
import json
import random
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage

from langchain_tokenopt.accounting import CallRecord, Price, Usage, UsageLedger
from langchain_tokenopt.advisor.finetune import (
    BreakEven,
    PaidCall,
    break_even,
    calls_of_ledger,
    calls_of_log,
)
from langchain_tokenopt.advisor.finetune_candidates import find_candidates
from langchain_tokenopt.advisor.finetune_export import TrainingSet, training_set
from langchain_tokenopt.advisor.finetune_likeness import alike, groups, likeness, shingles
from langchain_tokenopt.advisor.finetune_prices import (
    TuningPrice,
    TuningPrices,
    bundled_tuning_prices,
)
from langchain_tokenopt.advisor.log import LoggedCall
from langchain_tokenopt.advisor.redaction import Redactor
from langchain_tokenopt.cli import finetune as command
from langchain_tokenopt.embeddings import StaticEmbeddings
from langchain_tokenopt.errors import ConfigurationError, MissingExtraError

OWN = TuningPrices(
    [TuningPrice(model="mine*", training=Decimal(10), input=Decimal(1), output=Decimal(4))]
)
DAY = date(2026, 2, 1)


def paid(days: int = 28, *, calls: int = 10, cost: str | None = "0.01") -> list[PaidCall]:
    return [
        PaidCall(
            at=datetime(2026, 1, 1, 9, tzinfo=UTC) + timedelta(days=day),
            usage=Usage(plain_input=1_000, cache_read=1_000, output=100),
            cost=None if cost is None else Decimal(cost),
        )
        for day in range(days)
        for _ in range(calls)
    ]


def found(calls: Sequence[PaidCall], **changes: Any) -> BreakEven:
    given: dict[str, Any] = {
        "model": "mine", "training_tokens": 100_000, "prices": OWN, "at": DAY, **changes,
    }  # fmt: skip
    return break_even(calls, **given)


def test_break_even_follows_the_formula() -> None:
    result = found(paid(), needless_tokens=1_500)

    # Trained on 3 * 100,000 tokens at $10; a call sends 500 tokens at $1 and gets 100 at $4.
    assert result.training_cost == Decimal(3)
    saving = 10 * (Decimal("0.01") - Decimal("0.0009"))
    assert result.saving_a_day is not None
    assert result.saving_a_day.middle == saving
    assert result.days == pytest.approx(float(Decimal(3) / saving))
    assert result.gain is not None
    assert result.gain.middle == 180 * saving - 3
    assert (result.cost_a_day, result.tuned_a_day) == (Decimal("0.1"), Decimal("0.1") - saving)
    assert result.verdict == "pays"
    assert "is not known: test it" in str(result)


def test_no_cache_is_counted_on_so_that_a_cached_instruction_can_be_the_cheaper_way() -> None:
    result = found(paid(cost="0.001"))

    assert result.verdict == "does not pay"
    assert result.days is None
    assert "costs as much as now" in result.reason


def test_hosting_and_training_anew_are_paid_for() -> None:
    (price,) = OWN.prices
    hosted = TuningPrices([price.model_copy(update={"hosting_a_day": Decimal("0.05")})])
    plain, dear, often = (
        found(paid()), found(paid(), prices=hosted), found(paid(), retrain_every_days=30),
    )  # fmt: skip

    assert plain.gain is not None
    assert dear.gain is not None
    assert often.gain is not None
    assert plain.gain.middle - dear.gain.middle == 180 * Decimal("0.05")
    assert plain.gain.middle - often.gain.middle == 5 * Decimal(3)


def test_days_that_differ_widen_the_interval_and_days_without_calls_count() -> None:
    steady = found(paid(56))
    calls = [call for call in paid(56) if call.at.weekday() < 5 and call.at.day % 3]
    uneven = found(calls)

    assert steady.saving_a_day is not None
    assert steady.saving_a_day.low == steady.saving_a_day.high
    assert uneven.saving_a_day is not None
    assert uneven.saving_a_day.low < uneven.saving_a_day.middle < uneven.saving_a_day.high
    assert uneven.calls_a_day < 10
    assert uneven.days_range is not None
    quick, slow = uneven.days_range
    assert quick is not None
    assert slow is not None
    assert uneven.days is not None
    assert quick < uneven.days < slow


def test_too_few_days_are_never_sure() -> None:
    result = found(paid(2))

    assert result.verdict == "may pay"
    assert any("2 days are too few" in note for note in result.notes)


def days_of(costs: Sequence[float]) -> list[PaidCall]:
    begins = datetime(2026, 1, 1, tzinfo=UTC)
    return [
        replace(paid(1, calls=1)[0], at=begins + timedelta(days=n), cost=Decimal(f"{cost:.6f}"))
        for n, cost in enumerate(costs)
    ]


@pytest.mark.parametrize("days", [5, 7, 10, 14, 21, 28, 60])
@pytest.mark.parametrize("week", [[1.0] * 7, [1.2, 1.25, 1.2, 1.15, 1.1, 0.6, 0.5]])
def test_the_interval_holds_the_mean_as_often_as_promised(days: int, week: list[float]) -> None:
    (price,) = OWN.prices
    free = TuningPrices([price.model_copy(update={"input": Decimal(0), "output": Decimal(0)})])
    drawn, held, times = random.Random(days), 0, 300
    for _ in range(times):
        first = drawn.randrange(7)
        costs = [week[(first + n) % 7] * drawn.lognormvariate(-0.045, 0.3) for n in range(days)]
        saving = found(days_of(costs), prices=free, confidence=0.9).saving_a_day
        held += saving is not None and saving.low <= Decimal(1) <= saving.high

    # Three deviations of so many draws below 90%.
    assert held / times >= 0.9 - 3 * (0.9 * 0.1 / times) ** 0.5


def test_days_of_less_than_a_week_that_differ_have_an_interval_and_no_certainty() -> None:
    result = found(days_of([0.01, 0.03, 0.02, 0.05]), training_tokens=100)

    assert result.saving_a_day is not None
    assert result.saving_a_day.low < result.saving_a_day.middle < result.saving_a_day.high
    assert result.verdict == "may pay"
    assert any("4 days are too few" in note for note in result.notes)


def test_unknown_prices_are_none_and_said() -> None:
    tuning, calls = found(paid(), model="nobody-knows-it"), found(paid(cost=None))

    assert (tuning.verdict, calls.verdict) == ("unknown", "unknown")
    assert tuning.training_cost is None
    assert "no price of tuning nobody-knows-it" in str(tuning)
    assert calls.cost_a_day is None
    assert "280 calls have no known price" in str(calls)


def test_a_model_that_stops_to_answer_has_only_the_days_until_then() -> None:
    result = break_even(paid(), model="gpt-4.1-mini", training_tokens=10_000, at=date(2026, 12, 25))

    assert result.horizon_days == 20
    assert "stop to answer on 2027-01-14" in str(result)
    late = break_even(paid(), model="gpt-4.1-mini", training_tokens=10_000, at=date(2027, 1, 10))
    assert late.verdict == "does not pay"
    assert "could be tuned until 2027-01-06 only" in late.reason


@given(
    costs=st.lists(st.integers(0, 10**6), min_size=3, max_size=40),
    needless=st.integers(0, 3_000),
    tokens=st.integers(1, 10**7),
)
def test_parts_of_any_result_agree(costs: list[int], needless: int, tokens: int) -> None:
    calls = days_of([cost / 1_000_000 for cost in costs])

    result = found(calls, needless_tokens=needless, training_tokens=tokens)

    assert result.saving_a_day is not None
    assert result.gain is not None
    assert result.saving_a_day.low <= result.saving_a_day.middle <= result.saving_a_day.high
    assert result.gain.low <= result.gain.middle <= result.gain.high
    assert (result.days is None) == (result.saving_a_day.middle <= 0)
    if result.verdict == "pays":
        assert result.gain.low > 0


@pytest.mark.parametrize(
    "wrong",
    [
        {"training_tokens": 0}, {"epochs": 0}, {"needless_tokens": -1}, {"horizon_days": 0},
        {"retrain_every_days": 0}, {"confidence": 1.0},
    ],
)  # fmt: skip
def test_wrong_values_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        found(paid(), **wrong)


def test_no_calls_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="no calls"):
        found([])


def record(**changes: Any) -> CallRecord:
    given: dict[str, Any] = {
        "run_id": uuid4(), "started_at": datetime(2026, 1, 1, tzinfo=UTC), "kind": "live",
        "model": "gpt-5-mini", "usage": Usage(plain_input=10, output=5), "cost": Decimal("0.1"),
        "latency_s": 1.0, "feature": "faq",
    }  # fmt: skip
    return CallRecord(**{**given, **changes})


def test_of_a_ledger_only_what_a_model_was_paid_for_counts() -> None:
    records = [
        record(),
        record(kind="cache_hit", cost=Decimal(0)),
        record(kind="embedding"),
        record(feature="other"),
        record(model="other"),
    ]

    assert len(list(calls_of_ledger(records))) == 3
    assert len(list(calls_of_ledger(records, feature="faq", model="gpt-5-mini"))) == 1


def at_price(**_: Any) -> Price:
    return Price(input=Decimal(1), output=Decimal(10), source="made for the test")


def call(
    question: str, answer: str | AIMessage = "So.", *, n: int = 0, **changes: Any
) -> LoggedCall:
    usage: Any = {"input_tokens": 100, "output_tokens": 10, "total_tokens": 110}
    told = AIMessage(answer, usage_metadata=usage) if isinstance(answer, str) else answer
    given: dict[str, Any] = {
        "id": f"call-{n}", "line": n + 1, "model": "gpt-5-mini",
        "messages": (SystemMessage("You answer questions of our customers."),
                     HumanMessage(question)),
        "answer": told, "at": datetime(2026, 1, 1 + n % 20, tzinfo=UTC),
    }  # fmt: skip
    return LoggedCall(**{**given, **changes})


def test_calls_of_a_log_are_priced_and_those_without_time_or_usage_left_out() -> None:
    calls = [call("a"), call("b", at=None), call("c", AIMessage("no usage"))]

    (one,) = calls_of_log(calls, prices=at_price)

    assert one.cost == Decimal("0.0002")


TOPICS = (
    "parcel refund invoice warranty delivery address password account battery charger screen "
    "keyboard printer paper ink router cable antenna window door handle garden chair table lamp"
).split()


def questions(count: int, *, seed: int = 0) -> list[str]:
    drawn = random.Random(seed)
    return [" ".join(drawn.sample(TOPICS, 6)) + f" number {n}?" for n in range(count)]


def exported(calls: Sequence[LoggedCall], **changes: Any) -> TrainingSet:
    return training_set(
        calls, **{"model": "mine", "prices": OWN, "at": DAY, "near": 0.99, **changes}
    )


def test_examples_have_openais_form_and_cost_what_their_tokens_do(tmp_path: Path) -> None:
    calls = [call(text, n=n) for n, text in enumerate(questions(40))]

    result = exported(calls, validation_share=0.2)

    with pytest.raises(ConfigurationError, match="a folder that exists"):
        result.write(tmp_path / "none")
    assert len(result.training) + len(result.validation) == 40
    assert len(result.validation) == 8
    training, validation = result.write(tmp_path)
    rows = [json.loads(line) for line in training.read_text("utf-8").splitlines()]
    assert [list(row) for row in rows] == [["messages"]] * 32
    assert [each["role"] for each in rows[0]["messages"]] == ["system", "user", "assistant"]
    assert len(validation.read_text("utf-8").splitlines()) == 8
    assert result.cost == Decimal(10) * result.training_tokens * 3 / 1_000_000
    assert "redaction cannot find names" in str(result)


def test_a_shorter_instruction_takes_the_place_of_the_long_one() -> None:
    calls = [call(text, n=n) for n, text in enumerate(questions(12))]

    short = exported(calls, instruction="Answer.")
    none = exported(calls, instruction="")

    assert short.training[0]["messages"][0] == {"role": "system", "content": "Answer."}
    assert none.training[0]["messages"][0]["role"] == "user"
    assert none.training_tokens < exported(calls).training_tokens


def test_of_equal_prompts_the_latest_answer_stays() -> None:
    calls = [call(text, n=n) for n, text in enumerate(questions(12))]
    again = [call(questions(12)[0], "Otherwise.", n=20), call(questions(12)[1], "So.", n=21)]

    result = exported([*calls, *again])

    answers = [row["messages"][-1]["content"] for row in (*result.training, *result.validation)]
    assert len(answers) == 12
    assert answers.count("Otherwise.") == 1
    assert result.left_out == {
        "the same prompt": 1, "the same prompt, answered otherwise": 1,
    }  # fmt: skip


def test_sums_with_other_numbers_are_other_examples_unless_answered_alike() -> None:
    def asked(a: int, b: int) -> str:
        return f"A shop sells {a} apples in the morning and {b} in the evening. How many in all?"

    sums = [call(asked(n, 2 * n), f"{3 * n}", n=n) for n in range(1, 13)]
    alike = [call(f"Is order {n} of the winter sale on its way?", "Yes.", n=n) for n in (41, 42)]

    result = exported([*sums, *alike], near=0.7, apart=0.7)

    assert result.left_out == {"nearly the same prompt": 1}
    assert len(result.training) + len(result.validation) == 13


def test_nearly_equal_prompts_are_left_out_and_redaction_does_not_hide_them() -> None:
    calls = [call(text, n=n) for n, text in enumerate(questions(12))]
    same = [call(f"Where is the thing of ann{n}@example.org now?", n=20 + n) for n in range(3)]
    near = [call("Where is the thing of bob@example.org now, please?", n=30)]

    result = exported([*calls, *same, *near], near=0.7)

    assert result.left_out == {"the same prompt": 2, "nearly the same prompt": 1}
    assert result.redacted["EMAIL"] == 4
    written = json.dumps([*result.training, *result.validation])
    assert "please?" in written
    assert "example.org" not in written


@given(
    texts=st.lists(
        st.sampled_from(questions(30) + questions(30, seed=1)), min_size=25, unique=True
    ),
    seed=st.integers(0, 5),
)
def test_nothing_in_validation_is_like_anything_in_training(texts: list[str], seed: int) -> None:
    calls = [call(text, n=n) for n, text in enumerate(texts)]

    result = exported(calls, validation_share=0.3, apart=0.3, near=0.8, seed=seed)

    # Of what was kept, since what most texts share is not compared.
    parts = [*result.training, *result.validation]
    sets = shingles([row["messages"][1]["content"] for row in parts])
    n = len(result.training)
    assert all(likeness(a, b) < 0.3 for a in sets[:n] for b in sets[n:])


def test_turns_of_one_conversation_stay_together() -> None:
    calls = [call(text, n=n) for n, text in enumerate(questions(30))]
    opening = HumanMessage("hello there about my zebra")
    first = call("", n=40, messages=(opening,))
    later = [
        call("", n=41 + n, messages=(opening, AIMessage("Yes?"), HumanMessage(f"{text} and so on")))
        for n, text in enumerate(questions(5, seed=9))
    ]
    for seed in range(8):
        result = exported([*calls, first, *later], validation_share=0.5, seed=seed)
        sides = [
            any("zebra" in json.dumps(row) for row in part)
            for part in (result.training, result.validation)
        ]
        assert sides.count(True) == 1


def test_what_cannot_be_redacted_or_learned_is_left_out_with_the_reason() -> None:
    calls = [call(text, n=n) for n, text in enumerate(questions(12))]
    image: Any = [{"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}]
    odd = [
        call("x", n=20, error="RateLimitError"),
        call("x", "", n=21),
        call("x", n=22, messages=(HumanMessage(image),)),
        call("bad", "Wrong.", n=23),
    ]

    result = exported([*calls, *odd], keep=lambda one: one.id != "call-23")

    assert result.left_out == {
        "no answer": 1, "empty answer": 1, "not kept": 1,
        "images, sound or files, which cannot be redacted": 1,
    }  # fmt: skip


def test_arguments_of_tools_are_redacted_and_the_log_is_left_as_it_was() -> None:
    tools = [{"type": "function", "function": {"name": "mail", "description": "To a@b.example"}}]
    asked = AIMessage(
        "", tool_calls=[{"name": "mail", "args": {"to": "ann@example.org"}, "id": "1"}]
    )
    calls = [
        call(text, asked, n=n, parameters={"tools": tools}) for n, text in enumerate(questions(12))
    ]

    result = exported(calls)

    row = result.training[0]
    assert row["messages"][-1]["tool_calls"][0]["function"]["name"] == "mail"
    assert "[EMAIL_" in row["messages"][-1]["tool_calls"][0]["function"]["arguments"]
    assert "[EMAIL_" in row["tools"][0]["function"]["description"]
    assert tools[0]["function"]["description"] == "To a@b.example"  # type: ignore[index] # a dict
    assert asked.tool_calls[0]["args"] == {"to": "ann@example.org"}


def test_prompts_that_are_all_alike_leave_nothing_to_validate_and_say_so() -> None:
    calls = [call(f"about {' '.join(TOPICS[:8])} case {n}", n=n) for n in range(15)]

    result = exported(calls, apart=0.3)

    assert result.validation == ()
    assert "0 of 2 to validate" in str(result)


def test_an_unknown_price_of_training_is_none() -> None:
    calls = [call(text, n=n) for n, text in enumerate(questions(12))]

    result = exported(calls, model="nobody-knows-it")

    assert result.cost is None
    assert "unknown price" in str(result)


@pytest.mark.parametrize(
    "wrong", [{"validation_share": 1.0}, {"near": 0.2}, {"apart": 0.0}, {"epochs": 0}]
)
def test_an_export_that_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    calls = [call(text, n=n) for n, text in enumerate(questions(12))]

    with pytest.raises(ConfigurationError):
        exported(calls, **wrong)


def test_too_few_examples_are_refused_with_what_was_left_out() -> None:
    calls = [call("the same", n=n) for n in range(12)]

    with pytest.raises(ConfigurationError, match=r"1 examples are too few.*the same prompt: 11"):
        exported(calls)


@given(st.lists(st.frozensets(st.sampled_from("abcdefgh")), max_size=12), st.floats(0.05, 1))
def test_every_pair_that_is_alike_is_found_and_no_other(
    sets: list[frozenset[str]], least: float
) -> None:
    wanted = {
        (b, a) for b in range(len(sets)) for a in range(b) if likeness(sets[a], sets[b]) >= least
    }

    assert sorted(alike(sets, least=least)) == sorted(wanted)
    together = groups(len(sets), wanted)
    assert sorted(n for group in together for n in group) == list(range(len(sets)))


def test_a_likeness_that_cannot_be_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="above 0"):
        list(alike([], least=0.0))


def test_what_most_texts_share_makes_no_two_alike() -> None:
    texts = [f"Please summarise the following text of ours: {text}" for text in questions(25)]

    whole = [frozenset(re.findall(r"\w+", text)) for text in texts]
    kept = shingles(texts)

    assert likeness(whole[0], whole[1]) > likeness(kept[0], kept[1])


SECRETS = {
    "mail ann.b+x@example.co.uk now": "EMAIL",
    "call +49 30 901820 now": "PHONE",
    "call (415) 555-2671 now": "PHONE",
    "card 4111 1111 1111 1111 now": "CARD",
    "to DE89 3704 0044 0532 0130 00 now": "IBAN",
    "ssn 536-90-4399 now": "SSN",
    "from 203.0.113.9 now": "IP",
    "from 2001:db8::1 now": "IP",
    "key AKIAIOSFODNN7EXAMPLA now": "SECRET",
    "ghp_16C7e42F292c6912E7710c838347Ae178B4a now": "SECRET",
    "https://bob:pa55w0rd@db.example.org now": "SECRET",
    "password: hunter2 now": "SECRET",
    '{"api_key": "do not tell"} now': "SECRET",
    "sk-ant-api03-Zk3mQ9xR7tLpW2vB8nYc5dFgHj4KsAeU1oIi6rTyEwQ now": "SECRET",
    "-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY----- now": "SECRET",
}


@pytest.mark.parametrize(("text", "kind"), SECRETS.items())
def test_secrets_and_personal_data_are_replaced(text: str, kind: str) -> None:
    clean = Redactor().redact([text])

    assert clean.found == {kind: 1}
    assert f"[{kind}_1]" in clean.texts[0]
    assert clean.texts[0].endswith("now") or clean.texts[0].endswith("} now")


@pytest.mark.parametrize(
    "text",
    [
        "Order 12345678 of 10-12-2024 at 3:45:10 pm for $1,234.56 is 0.123456789 late.",
        "the password is required: please choose one",
        "internationalization-of-everything and def f(x): return x",
        "version 1.2.3, sha 9b74c9897bac770ffc029102a200c5de",
    ],
)
def test_plain_text_is_left_as_it_is(text: str) -> None:
    assert Redactor().redact([text]).texts == (text,)


def test_a_value_has_one_mark_in_all_texts_and_a_secret_is_found_again_without_its_name() -> None:
    clean = Redactor().redact(
        ["pwd=hunter22 a@b.example", "hunter22 again, a@b.example, c@d.example"]
    )

    assert clean.texts == ("pwd=[SECRET_1] [EMAIL_1]", "[SECRET_1] again, [EMAIL_1], [EMAIL_2]")
    assert clean.found == {"SECRET": 1, "EMAIL": 2}


@given(st.binary(min_size=30, max_size=60), st.text(max_size=40), st.text(max_size=40))
def test_a_json_web_token_never_gets_through(payload: bytes, before: str, after: str) -> None:
    def part(value: bytes) -> str:
        return base64.urlsafe_b64encode(value).decode().rstrip("=")

    head = part(json.dumps({"alg": "HS256"}).encode())
    token = f"{head}.{part(payload)}.{part(payload[::-1])}"

    (clean,) = Redactor().redact([f"{before} {token} {after}"]).texts

    assert token not in clean
    assert part(payload) not in clean


@given(st.text())
def test_redacting_twice_changes_no_more(text: str) -> None:
    once = Redactor(region=None).redact([text]).texts

    assert Redactor(region=None).redact(once).texts == once


def test_own_patterns_and_regions_are_taken_and_wrong_ones_refused() -> None:
    own = Redactor(region="DE", patterns={"CUSTOMER": re.compile(r"C-\d{4}")})

    assert own.redact(["C-1234 at 030 901820"]).texts == ("[CUSTOMER_1] at [PHONE_1]",)
    with pytest.raises(ConfigurationError, match="two capital letters"):
        Redactor(region="Germany")
    with pytest.raises(ConfigurationError, match="capital letters"):
        Redactor(patterns={"customer": re.compile("x")})


def test_a_missing_library_is_told_with_the_line_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "phonenumbers", None)

    with pytest.raises(MissingExtraError, match=r"langchain-tokenopt\[finetune\]"):
        Redactor()


def test_tasks_are_told_by_feature_and_instruction_and_the_dearest_comes_first() -> None:
    faq = [call(f"Where is my parcel number {n}?", n=n) for n in range(60)]
    mixed = [
        call(text, n=100 + n, metadata={"feature": "any"}, model="gpt-5.1")
        for n, text in enumerate(questions(60))
    ]
    few = [call("x", n=300, metadata={"feature": "few"})]

    candidates = find_candidates([*faq, *mixed, *few], embeddings=StaticEmbeddings())

    assert [each.name for each in candidates] == ["any", "You answer questions of our customers."]
    any_task, faq_task = candidates
    assert faq_task.likeness > any_task.likeness
    assert faq_task.ids == tuple(f"call-{n}" for n in range(60))
    assert faq_task.shared_tokens > 3
    assert faq_task.calls_a_day == 3.0
    assert "60 calls" in str(faq_task)
    alike_only = find_candidates(
        [*faq, *mixed], embeddings=StaticEmbeddings(), least_likeness=faq_task.likeness - 0.01
    )
    assert alike_only == [faq_task]


def test_calls_without_feature_and_instruction_are_put_together_by_likeness() -> None:
    def bare(text: str, n: int) -> LoggedCall:
        messages: tuple[BaseMessage, ...] = (HumanMessage(text),)
        return call("", n=n, messages=messages)

    parcels = [bare(f"Where is my parcel {n}?", n) for n in range(20)]
    poems = [bare(f"Write a poem about the sea, stanza {n}.", 50 + n) for n in range(20)]

    candidates = find_candidates(
        [*parcels, *poems], embeddings=StaticEmbeddings(), least_calls=15, prices=at_price
    )

    assert [len(each.ids) for each in candidates] == [20, 20]
    assert {each.shared_tokens for each in candidates} == {0}
    assert candidates[0].cost == 20 * Decimal("0.0002")


def test_candidates_without_a_price_have_none() -> None:
    calls = [call("Why?", n=n, model="nobody-knows-it") for n in range(5)]

    (only,) = find_candidates(calls, embeddings=StaticEmbeddings(), least_calls=2)

    assert only.cost is None
    assert "unpriced" in str(only)
    with pytest.raises(ConfigurationError, match="least_calls"):
        find_candidates(calls, embeddings=StaticEmbeddings(), least_calls=0)


def test_own_prices_come_before_those_of_the_package(tmp_path: Path) -> None:
    path = tmp_path / "prices.json"
    path.write_text(
        '{"prices": [{"model": "gpt-4.1-mini*", "training": 0.1, "input": "1", "output": "2"}]}'
    )

    own = TuningPrices.load(path).find("gpt-4.1-mini-2025-04-14", at=DAY)

    assert own is not None
    assert own.training == Decimal("0.1")
    assert own.source == "own prices"
    assert TuningPrices.load(path).find("gpt-4o-mini", at=DAY) is not None
    assert bundled_tuning_prices().find("gpt-4.1", at=date(2024, 1, 1)) is None
    assert bundled_tuning_prices().find("gpt-6-luna", at=DAY) is None


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "is not JSON"),
        ('{"prices": [{"model": "x", "training": -1, "input": 1, "output": 1}]}', "training"),
        ('{"price": []}', "wrong entries"),
    ],
)
def test_a_wrong_file_of_prices_is_refused(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "prices.json"
    with pytest.raises(ConfigurationError, match="cannot read"):
        TuningPrices.load(path)
    path.write_text(text)

    with pytest.raises(ConfigurationError, match=told):
        TuningPrices.load(path)


def run(*arguments: str) -> Any:
    parser = argparse.ArgumentParser()
    command.add_to(parser.add_subparsers(required=True))
    chosen = parser.parse_args(["finetune", *arguments])
    return chosen.run(chosen)


def write_log(path: Path, count: int) -> Path:
    rows = [
        {
            "id": f"call-{n}",
            "created_at": f"2026-10-{1 + n % 20:02}T09:00:00+00:00",
            "request": {
                "model": "gpt-5.1",
                "messages": [
                    {"role": "system", "content": "Answer."},
                    {"role": "user", "content": text},
                ],
            },
            "response": {
                "choices": [{"message": {"role": "assistant", "content": "Yes, ann@example.org."}}],
                "usage": {"prompt_tokens": 1_000, "completion_tokens": 20},
            },
            "metadata": {"feature": "faq"},
        }
        for n, text in enumerate(questions(count))
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_the_command_goes_from_a_log_to_a_verdict_and_a_training_set(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = str(write_log(tmp_path / "log.jsonl", 60))
    prices = tmp_path / "prices.json"
    prices.write_text(
        '{"prices": [{"model": "mine", "training": "10", "input": "0.1", "output": "0.4"}]}'
    )
    own = ("--tuning-prices", str(prices))

    (candidate,) = run("candidates", log)
    assert candidate.name == "faq"
    assert run("candidates", log, "--least-calls", "100") == []
    pays = ("--model", "mine", "--training-tokens", "1000", *own)
    assert run("break-even", log, *pays) == 0
    assert run("break-even", log, *pays, "--horizon-days", "1") == 1
    assert "tuning mine pays" in capsys.readouterr().out
    result = run("export", log, str(tmp_path), "--model", "mine", "--feature", "faq", *own)
    assert len(result.training) + len(result.validation) > 10
    assert "ann@example.org" not in (tmp_path / "training.jsonl").read_text("utf-8")
    with pytest.raises(ConfigurationError, match="folder that exists"):
        run("export", log, str(tmp_path / "none"), "--model", "mine")


def test_the_command_reads_a_ledger_as_well(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "ledger.db"
    with UsageLedger(path) as ledger:
        for day in range(10):
            at = datetime(2026, 10, 1 + day, tzinfo=UTC)
            ledger.append(record(started_at=at, cost=Decimal(100)))
    prices = tmp_path / "prices.json"
    prices.write_text('{"prices": [{"model": "mine", "training": 10, "input": 1, "output": 1}]}')
    asked = ("--model", "mine", "--training-tokens", "1000", "--tuning-prices", str(prices))

    assert run("break-even", str(path), *asked, "--feature", "faq") == 0
    assert "saving $100.00" in capsys.readouterr().out
    with pytest.raises(ConfigurationError, match="no calls"):
        run("break-even", str(path), *asked, "--feature", "none")
    with pytest.raises(ConfigurationError, match="a ledger or a call log that exists"):
        run("break-even", str(tmp_path / "none.db"), *asked)


def test_the_command_knows_prices_by_itself_and_takes_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = str(write_log(tmp_path / "log.jsonl", 60))
    prices = tmp_path / "prices.json"
    prices.write_text('{"prices": [{"model": "gpt-5.1", "input": "9000", "output": "9000"}]}')
    asked = ("break-even", log, "--model", "gpt-4.1-mini", "--training-tokens", "1000")

    run(*asked)
    usual = capsys.readouterr().out
    run(*asked, "--prices", str(prices))

    assert "tuning gpt-4.1-mini" in usual
    assert capsys.readouterr().out != usual


def test_calls_that_failed_are_no_examples_of_a_task() -> None:
    good = [call(text, n=n) for n, text in enumerate(questions(60))]
    failed = [replace(one, id=f"{one.id} again", error="RateLimitError") for one in good]

    (found,) = find_candidates([*good, *failed], embeddings=StaticEmbeddings())

    assert found == find_candidates(good, embeddings=StaticEmbeddings())[0]


def test_a_model_whose_tuned_ones_have_stopped_does_not_pay() -> None:
    prices = TuningPrices(
        [
            TuningPrice(
                model="old", training=Decimal(1), input=Decimal(1), output=Decimal(1),
                serves_until=date(2026, 1, 31),
            )
        ]
    )  # fmt: skip

    result = break_even(paid(), model="old", training_tokens=10_000, prices=prices, at=DAY)

    assert result.verdict == "does not pay"
    assert "tuned models of old stopped to answer on 2026-01-31" in result.reason


def test_numbers_and_lists_in_an_example_stay_as_they_are() -> None:
    parameters = {"type": "object", "required": ["to"], "minProperties": 1, "strict": True}
    tool = {"name": "mail", "description": "To a@b.example", "parameters": parameters}
    tools = [{"type": "function", "function": tool}]
    calls = [call(text, n=n, parameters={"tools": tools}) for n, text in enumerate(questions(12))]

    (shown,) = exported(calls).training[0]["tools"]

    assert "[EMAIL_" in shown["function"]["description"]
    assert shown["function"]["parameters"] == parameters


def test_a_word_after_password_is_no_secret_without_a_digit() -> None:
    texts = ("password: required, see the form", "password: hunter2secret")

    clean = Redactor(region=None).redact(texts).texts

    assert clean[0] == texts[0]
    assert "hunter2secret" not in clean[1]
