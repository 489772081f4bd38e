"""Find a prompt that does as well for fewer tokens, or better under a cap, for a token budget."""

import random
from collections.abc import Sequence
from typing import Any

from langchain_core.messages import AIMessage
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import Runnable, RunnableConfig

from langchain_tokenopt.reasoning.jobs import arun, run
from langchain_tokenopt.reasoning.metrics import LabelledSample, Metric
from langchain_tokenopt.reasoning.objective import FewestTokens, Objective
from langchain_tokenopt.reasoning.optimize_moves import PROPOSAL_PROMPT
from langchain_tokenopt.reasoning.optimize_result import OptimizedPrompt
from langchain_tokenopt.reasoning.optimize_search import Search, SearchOptions
from langchain_tokenopt.reasoning.prompt_parts import MakesRunnable, asked_with
from langchain_tokenopt.reasoning.prompting import Example


class PromptOptimizer:
    """Searches instructions and examples of a prompt, with a budget of tokens for all of it.

    Each round tries prompts that lack a sentence or an example, have other examples, or were
    rewritten by a proposer; a race on the samples finds the best. The winner is then compared with
    the start on samples that the search did not see, and only that comparison is reported as its
    gain: what wins a search is partly lucky.

    Args:
        make: A chat model, also with options bound, or a function that makes a runnable of a
            prompt, such as
            `lambda prompt: ChainOfThought(model, answer=extract.number, prompt=prompt)`.
        budget: Tokens, input and output of all calls, the proposer's included; see `evaluate`.
        metric: Scores an output; by default `typed_equality()` of the text.
        objective: `FewestTokens(margin=...)`, the default, or `HighestScore(max_tokens=...)`.
        proposer: A model that rewrites instructions; without one, only sentences and examples are
            tried.
        examples: Demonstrations to choose from, beside those made of right answers.
        rounds: How often the search goes on from the best prompt so far.
        width: Prompts that are tried in a round.
        confidence: Of the comparison with the start, and of the intervals.
        proposal_prompt: What the proposer is asked; gets `instruction`, `goal` and `n`.

    Raises:
        ConfigurationError: A value cannot be used.

    >>> from langchain_tokenopt.testing import ScriptedModel
    >>> model = ScriptedModel(["4"], when_exhausted="repeat_last")
    >>> wordy = ChatPromptTemplate([("system", "You are so good at sums. Be kind."),
    ...                             ("human", "{question}")])
    >>> found = PromptOptimizer(model, budget=20_000).optimize(
    ...     wordy, [LabelledSample(f"{n} + {4 - n}?", "4") for n in range(400)])
    >>> found.certain, [type(message).__name__ for message in found.prompt.messages]
    (True, ['HumanMessagePromptTemplate'])
    """

    def __init__(
        self,
        make: Runnable[Any, Any] | MakesRunnable,
        *,
        budget: int,
        metric: Metric | None = None,
        objective: Objective | None = None,
        proposer: Runnable[Any, AIMessage] | None = None,
        examples: Sequence[Example] = (),
        rounds: int = 3,
        width: int = 8,
        confidence: float = 0.95,
        proposal_prompt: ChatPromptTemplate = PROPOSAL_PROMPT,
    ) -> None:
        self._options = SearchOptions(
            make=asked_with(make) if isinstance(make, Runnable) else make,
            budget=budget,
            metric=metric,
            objective=objective or FewestTokens(),
            proposer=None if proposer is None else proposal_prompt | proposer,
            examples=tuple(examples),
            rounds=rounds,
            width=width,
            confidence=confidence,
        )

    def optimize(
        self,
        prompt: ChatPromptTemplate,
        samples: Sequence[LabelledSample],
        *,
        held_out: Sequence[LabelledSample] | None = None,
        order: random.Random | None = None,
        config: RunnableConfig | None = None,
    ) -> OptimizedPrompt:
        """Return the best prompt found, and how it compares with the start.

        Args:
            prompt: Where to start; its system message is the instruction.
            samples: To search on.
            held_out: To compare on at the end; by default the half of `samples` that is then kept
                from the search.
            order: Shuffles the samples; by default the same way each time.
            config: For all calls.

        Raises:
            ConfigurationError: The prompt or the samples cannot be used.
        """
        search = Search(self._options, prompt, samples, held_out=held_out, order=order)
        return run(search.work(), purse=search.purse, config=config)

    async def aoptimize(
        self,
        prompt: ChatPromptTemplate,
        samples: Sequence[LabelledSample],
        *,
        held_out: Sequence[LabelledSample] | None = None,
        order: random.Random | None = None,
        config: RunnableConfig | None = None,
    ) -> OptimizedPrompt:
        """Do what `optimize` does without blocking the event loop."""
        search = Search(self._options, prompt, samples, held_out=held_out, order=order)
        return await arun(search.work(), purse=search.purse, config=config)
