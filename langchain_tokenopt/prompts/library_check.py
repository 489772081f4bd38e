"""What could be better about templates: what a provider's cache cannot serve, what is not shown."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from langchain_tokenopt.prompts.library_content import Block
from langchain_tokenopt.prompts.library_template import LibraryTemplate
from langchain_tokenopt.prompts.library_text import Field, shown
from langchain_tokenopt.tokens import counter_for

LONG_ENOUGH_TO_CACHE = 1_024
"""Tokens from which on OpenAI caches a prefix; others begin there or above."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateFinding:
    """Something about a template that costs tokens or help."""

    template: str
    """`name@version`."""
    code: Literal["variable_before_static", "no_example"]
    message: str

    def __str__(self) -> str:
        return f"{self.template}: {self.code}: {self.message}"


def check_template(template: LibraryTemplate, *, model: str) -> Iterator[TemplateFinding]:
    """Yield what is to be said about a template; tokens are counted as `model` does."""
    name, behind = _static_behind_first_variable(template, model)
    if name is not None and behind >= LONG_ENOUGH_TO_CACHE:
        yield TemplateFinding(
            template=template.reference,
            code="variable_before_static",
            message=f"{name} stands before {behind:,} tokens of static text, which no provider's "
            "cache can serve to another value of it; move it behind them, to the end at best",
        )
    for variable in template.variables.values():
        if variable.example is None and variable.required:
            yield TemplateFinding(
                template=template.reference,
                code="no_example",
                message=f"{variable.name} has no example: what it takes cannot be seen, nor its "
                "tokens estimated before it was used",
            )


def _static_behind_first_variable(template: LibraryTemplate, model: str) -> tuple[str | None, int]:
    """Return the first variable, and the tokens of the static text behind it."""
    count = counter_for(model).count_text
    filled = frozenset(template.variables)
    first: str | None = None
    behind = 0
    for part in template.parts:
        first = first or part.placeholder
        for piece in part.pieces:
            if isinstance(piece, Block):
                first = first or min(piece.names, default=None)
                continue
            for each in shown(piece.segments, filled=filled):
                if isinstance(each, Field):
                    first = first or each.name
                elif first is not None:
                    behind += count(each)
    return first, behind
