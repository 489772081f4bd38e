"""What the search for a prompt found, what it tried and what it spent."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from langchain_core.prompts import ChatPromptTemplate

from langchain_tokenopt.calls import Usage
from langchain_tokenopt.reasoning.evaluate import Evaluation, measured, remarks, table_of
from langchain_tokenopt.reasoning.prompt_parts import write_prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """A prompt that was tried in the search."""

    how: str
    """How it differs from the best one before it."""
    prompt: ChatPromptTemplate
    evaluation: Evaluation
    """On samples of the search: those that win there are partly lucky."""
    outcome: str
    """Why it was not measured further, or that it was the best of its round."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizedPrompt:
    """The prompt to use, how it compares with the one before, and how it was found."""

    prompt: ChatPromptTemplate
    start: ChatPromptTemplate
    certain: bool
    """Whether it is shown on held-out samples that its score is within the objective's margin.

    `False` where it is the start, or where the samples or tokens were too few to tell.
    """
    reason: str
    held_out: tuple[Evaluation, ...]
    """The start and the winner of the search, on samples that the search did not see."""
    tried: tuple[Tried, ...]
    usage: Usage
    """Of all calls."""
    proposer_usage: Usage
    """The proposer's share of it."""
    budget: int
    confidence: float
    notes: tuple[str, ...] = ()
    """What went wrong in the search, if anything."""

    @property
    def changed(self) -> bool:
        """Whether the prompt is another one than the start."""
        return self.prompt != self.start

    def save(self, path: str | Path) -> None:
        """Write the prompt to a file of JSON; `read_prompt` returns it."""
        write_prompt(path, self.prompt)

    def report(self) -> str:
        """Return the comparison with the start, what was tried and what was spent, in Markdown."""
        title = "The prompt changes" if self.changed else "The prompt stays as it is"
        sure = "" if self.certain or not self.changed else ", which is not certain"
        used = (
            f"{self.usage.total_tokens:,} of {self.budget:,} tokens were used, "
            f"{self.proposer_usage.total_tokens:,} of them by the proposer. "
            f"Intervals are {self.confidence:.0%}."
        )
        parts = [f"{title}{sure}. {self.reason[:1].upper()}{self.reason[1:]}."]
        if self.held_out:
            head = ["on held-out samples", "samples", "score", "tokens a question"]
            rows = [[found.name, *measured(found)] for found in self.held_out]
            parts.append(table_of(head, rows))
        if self.tried:
            head = ["tried in the search", "samples", "score", "tokens a question", "outcome"]
            parts.append(table_of(head, [_row(tried) for tried in self.tried]))
        notes = [used, *dict.fromkeys(self.notes), *self._failures(), *remarks(self.held_out)]
        parts.append("\n".join(notes))
        return "\n\n".join(parts)

    def _failures(self) -> list[str]:
        rows = [row for tried in self.tried for row in tried.evaluation.rows]
        errors = [row.error for row in rows if row.error is not None]
        if not errors:
            return []
        return [f"{len(errors)} samples failed in the search, such as {errors[0]:.200}"]

    def __str__(self) -> str:
        return self.report()


def _row(tried: Tried) -> Sequence[str]:
    shown = tried.how.replace("|", "\\|").replace("\n", " ")
    return [shown, *measured(tried.evaluation), tried.outcome]
