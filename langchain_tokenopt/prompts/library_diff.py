"""What became another between two templates, in words, variables, tokens and the cached prefix."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import unified_diff
from itertools import zip_longest
from types import MappingProxyType

from langchain_tokenopt.prompts.diff import Divergence, first_divergence
from langchain_tokenopt.prompts.library_content import Block
from langchain_tokenopt.prompts.library_template import LibraryTemplate
from langchain_tokenopt.prompts.library_text import Segment
from langchain_tokenopt.prompts.shape import Part, RequestShape, canonical_json


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateDiff:
    """How a template differs from another one."""

    before: str
    """`name@version`."""
    after: str
    messages: tuple[str, ...]
    """A unified diff of each message that changed."""
    added: tuple[str, ...]
    """Variables."""
    removed: tuple[str, ...]
    changed: Mapping[str, tuple[str, str]]
    """Variables with what callers depend on, as JSON, before and after."""
    answer_changed: bool
    """Whether the JSON schema of the answer became another."""
    static_before: int
    static_after: int
    """Tokens of what is always the same."""
    prefix_kept: bool
    """Whether what stands in front of the first variable still begins as it did: entries that a
    provider's cache holds of it are still read."""
    divergence: Divergence | None
    """Where the prefix parts first, `None` if it is kept."""

    @property
    def static_change(self) -> int:
        """Tokens that each request has more, or less."""
        return self.static_after - self.static_before

    def __bool__(self) -> bool:
        """Return whether there is any difference."""
        variables = self.added or self.removed or self.changed
        return bool(self.messages or variables or self.answer_changed)

    def __str__(self) -> str:
        if not self:
            return f"{self.before} and {self.after} are equal"
        told = list(self.messages)
        told += [f"variable added: {name}" for name in self.added]
        told += [f"variable removed: {name}" for name in self.removed]
        told += [f"variable {n} changed: {a} became {b}" for n, (a, b) in self.changed.items()]
        if self.answer_changed:
            told.append("the schema of the answer changed")
        told.append(
            f"static tokens: {self.static_before:,} became {self.static_after:,} "
            f"({self.static_change:+,})"
        )
        kept = "kept" if self.prefix_kept else f"lost: {self.divergence}"
        told.append(f"provider-cache prefix {kept}")
        return "\n".join(told)


def diff_templates(before: LibraryTemplate, after: LibraryTemplate, *, model: str) -> TemplateDiff:
    """Return how `after` differs from `before`; tokens are counted as `model` does."""
    old, new = before.variables, after.variables
    contracts = {
        name: (canonical_json(old[name].contract()), canonical_json(new[name].contract()))
        for name in old
        if name in new
    }
    divergence = first_divergence(_prefix(before, model), _prefix(after, model))
    return TemplateDiff(
        before=before.reference,
        after=after.reference,
        messages=tuple(_message_diffs(before, after)),
        added=tuple(name for name in new if name not in old),
        removed=tuple(name for name in old if name not in new),
        changed=MappingProxyType({n: pair for n, pair in contracts.items() if pair[0] != pair[1]}),
        answer_changed=before.answer_schema != after.answer_schema,
        static_before=before.static_tokens(model),
        static_after=after.static_tokens(model),
        prefix_kept=divergence is None,
        divergence=divergence,
    )


def static_prefix(template: LibraryTemplate) -> tuple[Part, ...]:
    """Return what stands in front of the first variable, the beginning of its message included."""
    found: list[Part] = []
    for part, outline in zip(template.parts, template.outline(), strict=True):
        if not part.names:
            found.append(outline)
            continue
        text = ""
        for piece in part.pieces:
            before = [piece] if isinstance(piece, Block) else _before_variables(piece.segments)
            text += "".join(each for each in before if isinstance(each, str))
            if isinstance(piece, Block) or len(before) < len(piece.segments):
                break
        return (*found, Part(outline.name, text)) if text else tuple(found)
    return tuple(found)


def _before_variables(segments: Sequence[Segment]) -> list[str]:
    first = next((n for n, each in enumerate(segments) if not isinstance(each, str)), None)
    return [each for each in segments[:first] if isinstance(each, str)]


def _prefix(template: LibraryTemplate, model: str) -> RequestShape:
    settings: tuple[tuple[str, str], ...] = ()
    if template.answer_schema is not None:
        settings = (("text_format", canonical_json(template.answer_schema)),)
    return RequestShape(model=model, parts=static_prefix(template), settings=settings)


def _message_diffs(before: LibraryTemplate, after: LibraryTemplate) -> list[str]:
    told = []
    pairs = zip_longest(before.outline(), after.outline())
    for n, (old, new) in enumerate(pairs, start=1):
        if old == new:
            continue
        lines = unified_diff(
            _lines(old),
            _lines(new),
            fromfile=f"{before.reference} {_title(old, n)}",
            tofile=f"{after.reference} {_title(new, n)}",
            lineterm="",
        )
        told.append("\n".join(lines) or f"message {n}: {_title(old, n)} became {_title(new, n)}")
    return told


def _lines(part: Part | None) -> list[str]:
    return part.text.split("\n") if part is not None else []


def _title(part: Part | None, n: int) -> str:
    return f"message {n} ({part.name})" if part is not None else "(no message)"
