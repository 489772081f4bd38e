"""A named prompt with declared variables, known by a version that changes whenever it does."""

import asyncio
from collections.abc import Mapping, Sequence
from copy import deepcopy
from difflib import get_close_matches
from typing import Any, cast

from langchain_core.messages import BaseMessage
from langchain_core.prompt_values import ChatPromptValue
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import Runnable, RunnableConfig
from pydantic import BaseModel
from typing_extensions import override

from langchain_tokenopt.errors import ConfigurationError
from langchain_tokenopt.messages import TEMPLATE_MARK
from langchain_tokenopt.prompts.hints import STATIC
from langchain_tokenopt.prompts.library_content import (
    Block,
    Parsed,
    TemplateMessage,
    chat_prompt,
    parsed,
)
from langchain_tokenopt.prompts.library_estimate import Estimator, TokenEstimate
from langchain_tokenopt.prompts.library_text import FORMATS, TemplateFormat, outlined
from langchain_tokenopt.prompts.library_variables import Variable
from langchain_tokenopt.prompts.shape import Part, canonical_json, version_of


class LibraryTemplate(Runnable[Mapping[str, Any], ChatPromptValue]):
    """A prompt that checks what it is given, and says in the ledger which version was used.

    A Runnable: from values by name to a prompt for a chat model. Values are put in as they are,
    braces and all; a list as JSON. The first message made carries `name@version` where accounting
    finds it; providers are not sent it, and caches leave it out of their keys.

    Args:
        name: Letters, digits, `_`, `-` and `.`.
        messages: `TemplateMessage`s or pairs such as `("system", "Be brief.")`; static ones first.
        variables: One for each that the messages use, no more and no fewer.
        description: What the prompt is for.
        template_format: `f-string` or `mustache`. Never jinja2, which runs code.
        answer_schema: JSON schema of the answer, for `model.with_structured_output`.

    Raises:
        ConfigurationError: Any of them cannot be used, or a text names more than plain variables.

    >>> from langchain_tokenopt.prompts.library_variables import Variable
    >>> question = Variable(name="question", description="What to answer.")
    >>> template = LibraryTemplate(
    ...     "ask", [("system", "Be brief."), ("human", "{question}")], variables=[question]
    ... )
    >>> template.invoke({"question": "What is {x}?"}).messages[1].content
    'What is {x}?'
    >>> template.invoke({"query": "2 + 2?"})
    Traceback (most recent call last):
    langchain_tokenopt.errors.ConfigurationError: ask@...: question is missing: What to answer.; ...
    """

    def __init__(
        self,
        name: str,
        messages: Sequence[TemplateMessage | tuple[str, Any]],
        *,
        variables: Sequence[Variable] = (),
        description: str = "",
        template_format: TemplateFormat = "f-string",
        answer_schema: Mapping[str, Any] | None = None,
    ) -> None:
        if template_format not in FORMATS:
            message = f"expected the format {' or '.join(FORMATS)}, got {template_format!r}"
            raise ConfigurationError(f"{name}: {message}")
        self.name: str = _checked_name(name)
        self.description = description.strip()
        self.template_format: TemplateFormat = template_format
        self.messages = tuple(map(_message, messages))
        self.variables = _by_name(name, variables)
        self.answer_schema = deepcopy(dict(answer_schema)) if answer_schema else None
        self._parts = _parsed(name, self.messages, template_format)
        self._check_variables()
        self._static_count = next(
            (n for n, part in enumerate(self._parts) if part.names), len(self._parts)
        )
        self._prompt = chat_prompt(
            self.messages, template_format=template_format, variables=variables
        )
        self.version = self._version()
        """12 hexadecimal digits: of the messages, the variables and the schema of the answer."""
        self._estimator = Estimator(self._parts, self.variables, template_format)

    @property
    def reference(self) -> str:
        """`name@version`, as `PromptLibrary.get` and the ledger know it."""
        return f"{self.name}@{self.version}"

    @property
    def parts(self) -> tuple[Parsed, ...]:
        """The messages as they were read."""
        return self._parts

    @property
    def system_text(self) -> str:
        """The system prompt as a text, for a `PromptBuilder`.

        Raises:
            ConfigurationError: There is none, or it has variables or blocks.
        """
        first = self._parts[0]
        if first.role != "system" or first.names or not first.whole:
            message = (
                f"{self.reference}: expected a system message that is a text without variables"
            )
            raise ConfigurationError(message)
        return "".join(outlined(p.segments) for p in first.pieces if not isinstance(p, Block))

    def as_prompt(self) -> ChatPromptTemplate:
        """Return the plain LangChain template: without checks, marks and limits.

        What is not required is a partial variable with its default.
        """
        return self._prompt.model_copy(deep=True)

    @override
    def get_input_schema(self, config: RunnableConfig | None = None) -> type[BaseModel]:
        return self._prompt.get_input_schema(config)

    @override
    def invoke(
        self, input: Mapping[str, Any], config: RunnableConfig | None = None, **kwargs: Any
    ) -> ChatPromptValue:
        """Return the messages for some values.

        Raises:
            ConfigurationError: Values are missing, unknown or wrong; it names all of them.
        """
        return self._call_with_config(self._rendered, input, config, run_type="prompt")

    @override
    async def ainvoke(
        self, input: Mapping[str, Any], config: RunnableConfig | None = None, **kwargs: Any
    ) -> ChatPromptValue:
        """Do what `invoke` does; long values are counted in a thread."""
        return await self._acall_with_config(self._arendered, input, config, run_type="prompt")

    def estimate(self, *, model: str, sample: Mapping[str, Any] | None = None) -> TokenEstimate:
        """Return about how many input tokens a request will have.

        Args:
            model: Name of the model that is asked.
            sample: Values as they will come. Of those that are not in it the mean of those seen so
                far is taken, else the example of the variable. An image that is not given counts
                as one of 1,024 pixels square.

        Raises:
            ConfigurationError: A value does not fit, or nothing is known of one.
        """
        given = dict(sample or {})
        unknown = [name for name in given if name not in self.variables]
        wrong = [*self._unknown(unknown), *self._wrong(given)]
        if wrong:
            raise ConfigurationError(f"{self.reference}: {'; '.join(wrong)}")
        return self._estimator.estimate(model, sample=given, label=self.reference)

    def static_tokens(self, model: str) -> int:
        """Return the input tokens of what is always the same, the framing included."""
        return self._estimator.static_tokens(model)

    def outline(self) -> tuple[Part, ...]:
        """Return the messages with the names of their variables in place of values."""
        return tuple(part.outline() for part in self._parts)

    def _rendered(self, given: Any) -> ChatPromptValue:
        values = self._values(given)
        written = {name: self.variables[name].written(values.get(name)) for name in self.variables}
        messages: list[BaseMessage] = []
        for n, (template, part) in enumerate(zip(self._prompt.messages, self._parts, strict=True)):
            if part.placeholder is not None:
                messages.extend(map(_unmarked, written[part.placeholder]))
                continue
            made = cast("Any", template).format_messages(**written)
            # What is equal in every request may be marked for the provider's cache.
            static = {STATIC: True} if n < self._static_count else {}
            messages += [each.model_copy(update={"response_metadata": static}) for each in made]
        own = next(n for n, part in enumerate(self._parts) if part.placeholder is None)
        before = [written[str(part.placeholder)] for part in self._parts[:own]]
        messages[sum(map(len, before))].response_metadata[TEMPLATE_MARK] = self.reference
        self._estimator.seen.add(written)
        return ChatPromptValue(messages=messages)

    async def _arendered(self, given: Any) -> ChatPromptValue:
        if any(variable.max_tokens is not None for variable in self.variables.values()):
            return await asyncio.to_thread(self._rendered, given)
        return self._rendered(given)

    def _values(self, given: Any) -> Mapping[str, Any]:
        required = [name for name, variable in self.variables.items() if variable.required]
        if not isinstance(given, Mapping):
            if len(required) != 1:
                names = ", ".join(self.variables)
                message = f"expected values by name ({names}), got {type(given).__name__}"
                raise ConfigurationError(f"{self.reference}: {message}")
            return self._values({required[0]: given})  # as LangChain's own templates take it
        missing = [
            f"{name} is missing: {self.variables[name].description}"
            for name in required
            if given.get(name) is None
        ]
        unknown = [name for name in given if name not in self.variables]
        wrong = [*missing, *self._unknown(unknown), *self._wrong(given)]
        if wrong:
            raise ConfigurationError(f"{self.reference}: {'; '.join(wrong)}")
        return cast("Mapping[str, Any]", given)

    def _unknown(self, names: Sequence[Any]) -> list[str]:
        told = []
        for name in names:
            near = get_close_matches(str(name), list(self.variables), n=1)
            known = f"did you mean {near[0]}?" if near else f"it has {', '.join(self.variables)}"
            told.append(f"{name!s:.60} is no variable of it; {known}")
        return told

    def _wrong(self, given: Mapping[str, Any]) -> list[str]:
        checked = (
            (name, variable.problem_with(given[name]))
            for name, variable in self.variables.items()
            if given.get(name) is not None
        )
        return [f"{name}: {problem}" for name, problem in checked if problem is not None]

    def _check_variables(self) -> None:
        used: set[str] = set()
        for part in self._parts:
            used |= part.names
        declared = set(self.variables)
        if used != declared:
            undeclared = ", ".join(sorted(used - declared)) or "none"
            unused = ", ".join(sorted(declared - used)) or "none"
            raise ConfigurationError(
                f"{self.name}: expected the declared variables to be those the messages use; "
                f"used but not declared: {undeclared}; declared but not used: {unused}"
            )
        if all(part.placeholder is not None for part in self._parts):
            raise ConfigurationError(f"{self.name}: expected a message besides placeholders")
        for part in self._parts:
            self._check_kinds(part)

    def _check_kinds(self, part: Parsed) -> None:
        for name in part.names:
            variable = self.variables[name]
            if (variable.type == "messages") is not (part.placeholder == name):
                place = "a placeholder for" if part.placeholder == name else "a text with"
                message = f"{place} {name}, which is of the type {variable.type}"
                raise ConfigurationError(
                    f"{self.name}: messages go where 'messages' is; got {message}"
                )
        for piece in part.pieces:
            empty = [
                name
                for name in (piece.names if isinstance(piece, Block) else ())
                if not self.variables[name].required and self.variables[name].default is None
            ]
            if empty:
                message = f"{', '.join(sorted(empty))} must be required or have a default"
                raise ConfigurationError(f"{self.name}: inside a content block {message}")

    def _version(self) -> str:
        told = [part.part(self.template_format) for part in self._parts]
        contract = {name: variable.contract() for name, variable in self.variables.items()}
        told.append(Part("variables", canonical_json(contract)))
        if self.answer_schema is not None:
            told.append(Part("answer", canonical_json(self.answer_schema)))
        return version_of(told)


def _checked_name(name: object) -> str:
    allowed = isinstance(name, str) and name.isascii() and 0 < len(name) <= 80
    text = str(name)
    if not allowed or not text.strip("_-.") or not all(c.isalnum() or c in "_-." for c in text):
        message = "expected a name of at most 80 letters, digits, _, - and ."
        raise ConfigurationError(f"{message}, got {name!r:.100}")
    return text


def _message(message: Any) -> TemplateMessage:
    if isinstance(message, TemplateMessage):
        return TemplateMessage(message.role, deepcopy(message.content))
    if not isinstance(message, tuple) or len(message) != 2:
        raise ConfigurationError(f"expected a pair of role and content, got {message!r:.80}")
    return TemplateMessage(message[0], deepcopy(message[1]))


def _by_name(name: str, variables: Sequence[Variable]) -> dict[str, Variable]:
    found: dict[str, Variable] = {}
    for variable in variables:
        if variable.name in found:
            raise ConfigurationError(f"{name}: the variable {variable.name} is declared twice")
        found[variable.name] = variable
    return found


def _parsed(
    name: str, messages: Sequence[TemplateMessage], template_format: TemplateFormat
) -> tuple[Parsed, ...]:
    if not messages:
        raise ConfigurationError(f"{name}: expected at least one message, got none")
    found = []
    for n, message in enumerate(messages, start=1):
        try:
            found.append(parsed(message, template_format))
        except ConfigurationError as error:
            raise ConfigurationError(f"{name}: message {n} ({message.role}): {error}") from error
    return tuple(found)


def _unmarked(message: Any) -> BaseMessage:
    """Return a message of the caller without the mark of the template that made it."""
    if TEMPLATE_MARK not in message.response_metadata:
        return cast("BaseMessage", message)
    kept = {k: v for k, v in message.response_metadata.items() if k != TEMPLATE_MARK}
    return cast("BaseMessage", message.model_copy(update={"response_metadata": kept}))
