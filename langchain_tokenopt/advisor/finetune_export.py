"""From a call log to a training set in OpenAI's chat format, without duplicates and secrets."""

import json
import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    SystemMessage,
    convert_to_openai_messages,
)

from langchain_tokenopt.advisor.finetune_likeness import alike, groups, shingles
from langchain_tokenopt.advisor.finetune_prices import TuningPrices, bundled_tuning_prices
from langchain_tokenopt.advisor.log import LoggedCall
from langchain_tokenopt.advisor.redaction import NOT_FOUND, Redactor
from langchain_tokenopt.errors import ConfigurationError
from langchain_tokenopt.files import write_whole
from langchain_tokenopt.tokens import TokenCounter, counter_for

LEAST_EXAMPLES = 10
_NUMBERS = re.compile(r"\d+(?:[.,]\d+)*")
"""OpenAI trains on no fewer."""

Keep = Callable[[LoggedCall], bool]
"""Says whether an answer is good enough to learn from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSet:
    """Examples in OpenAI's chat format, in two parts that have nothing nearly alike in common."""

    model: str
    training: tuple[Mapping[str, Any], ...]
    validation: tuple[Mapping[str, Any], ...]
    left_out: Mapping[str, int]
    """By reason: calls that are no examples."""
    redacted: Mapping[str, int]
    """By kind: values that were replaced by marks, example by example."""
    training_tokens: int
    """Of one epoch."""
    tokens_are_estimated: bool
    epochs: int
    cost: Decimal | None
    """Dollars of training; `None` if no price is known."""
    notes: tuple[str, ...]

    def write(self, folder: str | Path) -> tuple[Path, Path]:
        """Write `training.jsonl` and `validation.jsonl` into a folder, and return their paths.

        Raises:
            ConfigurationError: The folder does not exist.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise ConfigurationError(f"expected a folder that exists, got {folder}")
        paths = folder / "training.jsonl", folder / "validation.jsonl"
        for path, part in zip(paths, (self.training, self.validation), strict=True):
            lines = (json.dumps(example, ensure_ascii=False) + "\n" for example in part)
            write_whole(path, "".join(lines).encode())
        return paths

    def __str__(self) -> str:
        cost = f"${self.cost:.2f}" if self.cost is not None else "an unknown price"
        counted = "estimated" if self.tokens_are_estimated else "counted"
        examples = f"{len(self.training):,} examples to train {self.model} on"
        tokens = f"{self.training_tokens:,} tokens ({counted}) in each of {self.epochs} epochs"
        lines = [f"{examples}, {len(self.validation):,} to validate; {tokens} for {cost}"]
        for what, counts in (("left out", self.left_out), ("redacted", self.redacted)):
            if counts:
                told = ", ".join(f"{reason}: {n:,}" for reason, n in sorted(counts.items()))
                lines.append(f"{what}: {told}")
        return "\n".join((*lines, *self.notes))


def training_set(
    calls: Iterable[LoggedCall],
    *,
    model: str,
    redactor: Redactor | None = None,
    instruction: str | None = None,
    keep: Keep | None = None,
    validation_share: float = 0.1,
    near: float = 0.8,
    apart: float = 0.5,
    epochs: int = 3,
    seed: int = 0,
    prices: TuningPrices | None = None,
    at: date | None = None,
) -> TrainingSet:
    """Return the calls of a log as examples to tune a model on.

    Of prompts that are the same, or nearly, after redaction, the latest is kept; prompts with other
    numbers that are answered otherwise are not nearly the same. Prompts that are
    less alike, but still alike, all come into one of the two parts, so that validation shows
    nothing that training has seen.

    Args:
        calls: Of one task; see `find_candidates`.
        model: The base model, for its tokens and prices.
        redactor: Finds secrets and personal data; by default `Redactor()`.
        instruction: A shorter system prompt to tune for, instead of those of the calls; "" for
            none.
        keep: Says which answers are good; a model learns the bad ones as well.
        validation_share: Of the examples, to validate on.
        near: Likeness, 0 to 1, from which on prompts are duplicates.
        apart: Likeness from which on prompts are not parted.
        epochs: How often the training goes through the examples.
        seed: Of the split.
        prices: What training costs.
        at: The day of training; by default today.

    Raises:
        ConfigurationError: A value cannot be used, or there are too few examples.
        MissingExtraError: The extra `finetune` is not installed.
    """
    if not 0 <= validation_share < 1 or not 0 < apart <= near <= 1 or epochs < 1:
        message = (
            "expected a validation share from 0 to below 1, 0 < apart <= near <= 1 and an epoch or "
            f"more, got {validation_share}, {apart}, {near} and {epochs}"
        )
        raise ConfigurationError(message)
    redactor = redactor or Redactor()
    left_out: Counter[str] = Counter()
    redacted: Counter[str] = Counter()
    examples: list[dict[str, Any]] = []
    prompts: list[str] = []
    for call in calls:
        reason = _refusal(call, keep)
        if reason is None and call.answer is not None:
            example, found = _example(call, call.answer, redactor, instruction)
            redacted.update(found)
            examples.append(example)
            prompts.append(_prompt_of(example))
        else:
            left_out[reason or "no answer"] += 1
    kept = _latest(examples, prompts, near, left_out)
    if len(kept) < LEAST_EXAMPLES:
        told = ", ".join(f"{reason}: {n}" for reason, n in sorted(left_out.items())) or "nothing"
        message = (
            f"{len(kept)} examples are too few, expected {LEAST_EXAMPLES} or more; left out: {told}"
        )
        raise ConfigurationError(message)
    likes = [*alike(shingles([prompts[n] for n in kept]), least=apart)]
    likes += _same_conversation([examples[n] for n in kept])
    training, validation = _parted(len(kept), likes, validation_share, seed)
    notes = [f"redaction cannot find {NOT_FOUND}"]
    wanted = round(validation_share * len(kept))
    if len(validation) < wanted:
        notes.append(f"{len(validation)} of {wanted} to validate: too many prompts are alike")
    counter = counter_for(model)
    tokens = sum(_tokens(examples[kept[n]], counter) for n in training)
    price = (prices or bundled_tuning_prices()).find(model, at=at or datetime.now(UTC).date())
    if price is None:
        notes.append(f"no price of training {model} is known; give prices=TuningPrices.load(...)")
    return TrainingSet(
        model=model,
        training=tuple(examples[kept[n]] for n in training),
        validation=tuple(examples[kept[n]] for n in validation),
        left_out=dict(left_out),
        redacted=dict(redacted),
        training_tokens=tokens,
        tokens_are_estimated=counter.estimated,
        epochs=epochs,
        cost=None if price is None else price.training_cost(tokens, epochs=epochs),
        notes=tuple(notes),
    )


def _refusal(call: LoggedCall, keep: Keep | None) -> str | None:
    """Return why a call is no example, `None` if it is one."""
    if call.error is not None or call.answer is None:
        return "no answer"
    if not call.answer.text and not call.answer.tool_calls:
        return "empty answer"
    if any(not _is_text(message) for message in (*call.messages, call.answer)):
        return "images, sound or files, which cannot be redacted"
    if keep is not None and not keep(call):
        return "not kept"
    return None


def _is_text(message: BaseMessage) -> bool:
    blocks = [message.content] if isinstance(message.content, str) else message.content
    # Calls of tools are told twice, as blocks and in `tool_calls`, which is what is written.
    known = ("text", "tool_use", "function_call", "tool_call", "reasoning", "thinking")
    return all(isinstance(each, str) or each.get("type") in known for each in blocks)


def _example(
    call: LoggedCall, answer: AIMessage, redactor: Redactor, instruction: str | None
) -> tuple[dict[str, Any], Mapping[str, int]]:
    messages: list[BaseMessage] = list(call.messages)
    if instruction is not None:
        messages = [each for each in messages if not isinstance(each, SystemMessage)]
        messages = [*([SystemMessage(instruction)] if instruction else []), *messages]
    written: Any = convert_to_openai_messages([*messages, answer], text_format="string")
    example: dict[str, Any] = {"messages": written}
    if call.parameters.get("tools"):
        example["tools"] = deepcopy(call.parameters["tools"])
    places: list[tuple[Any, Any]] = []
    _find_texts(example, places)
    clean = redactor.redact([holder[key] for holder, key in places])
    for (holder, key), text in zip(places, clean.texts, strict=True):
        holder[key] = text
    return example, clean.found


# What names a part of the conversation, not what somebody said.
_NAMES = {"role", "type", "id", "tool_call_id"}


def _find_texts(value: Any, places: list[tuple[Any, Any]]) -> None:
    """Note where each text of a JSON value stands."""
    pairs: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, dict):
        pairs = ((key, each) for key, each in value.items() if key not in _NAMES)
    elif isinstance(value, list):
        pairs = enumerate(value)
    for key, each in pairs:
        if isinstance(each, str):
            places.append((value, key))
        else:
            _find_texts(each, places)


def _prompt_of(example: Mapping[str, Any]) -> str:
    """Return what was asked: all but the instruction and the answer."""
    asked = [
        each for each in example["messages"][:-1] if each["role"] not in ("system", "developer")
    ]
    return "\n".join(str(each.get("content") or "") for each in asked)


def _latest(
    examples: Sequence[Mapping[str, Any]],
    prompts: Sequence[str],
    near: float,
    left_out: Counter[str],
) -> list[int]:
    """Return the examples to keep, in order: of those that are alike the latest one."""
    by_prompt: dict[str, int] = {}
    for number, prompt in enumerate(prompts):
        former = by_prompt.pop(prompt, None)
        if former is not None:
            same = examples[former]["messages"][-1] == examples[number]["messages"][-1]
            left_out["the same prompt" if same else "the same prompt, answered otherwise"] += 1
        by_prompt[prompt] = number
    # The latest first, so that each is dropped for the sake of a later one that stays.
    order = sorted(by_prompt.values(), reverse=True)
    later: dict[int, list[int]] = {}
    for number, other in alike(shingles([prompts[n] for n in order]), least=near):
        if not _numbers_tell(order[number], order[other], examples, prompts):
            later.setdefault(number, []).append(other)
    dropped: set[int] = set()
    for number in range(len(order)):
        if any(other not in dropped for other in later.get(number, ())):
            dropped.add(number)
    left_out["nearly the same prompt"] += len(dropped)
    left_out += Counter()  # takes out zeros
    return sorted(order[n] for n in range(len(order)) if n not in dropped)


def _numbers_tell(
    a: int, b: int, examples: Sequence[Mapping[str, Any]], prompts: Sequence[str]
) -> bool:
    """Return whether two prompts are other questions: with other numbers and another answer."""
    return (
        _NUMBERS.findall(prompts[a]) != _NUMBERS.findall(prompts[b])
        and examples[a]["messages"][-1] != examples[b]["messages"][-1]
    )


def _same_conversation(examples: Sequence[Mapping[str, Any]]) -> list[tuple[int, int]]:
    """Return pairs that begin alike, if one goes on with what another may have been asked for."""
    opened: dict[str, list[int]] = {}
    for number, example in enumerate(examples):
        turns = [
            each for each in example["messages"] if each["role"] not in ("system", "developer")
        ]
        opened.setdefault(str(turns[0].get("content")), []).append(number)
    return [
        (number, some[0])
        for some in opened.values()
        if any(len(_answers(examples[each])) > 1 for each in some)
        for number in some[1:]
    ]


def _answers(example: Mapping[str, Any]) -> list[Any]:
    return [each for each in example["messages"] if each["role"] == "assistant"]


def _parted(
    count: int, likes: Sequence[tuple[int, int]], validation_share: float, seed: int
) -> tuple[list[int], list[int]]:
    """Return which examples are for training, and which for validation."""
    together = groups(count, likes)
    random.Random(seed).shuffle(together)  # noqa: S311 - no secret
    room = round(validation_share * count)
    validation: list[int] = []
    for group in together:
        if len(validation) + len(group) <= room:
            validation += group
    chosen = set(validation)
    return [n for n in range(count) if n not in chosen], sorted(validation)


def _tokens(example: Mapping[str, Any], counter: TokenCounter) -> int:
    """Return the tokens of an example, as the texts in it and a frame around each message."""
    places: list[tuple[Any, Any]] = []
    _find_texts(dict(example), places)
    frame = 4 * len(example["messages"]) + 3
    return frame + sum(counter.count_text(holder[key]) for holder, key in places)
