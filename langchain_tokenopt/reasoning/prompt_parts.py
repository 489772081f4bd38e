"""A chat prompt taken apart into what a search may change, put together again, and kept in a file.

What may change is the instruction, which is the text of the system message, and the examples,
which are pairs of fixed human and AI messages after it. The rest stays as it is.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

from langchain_core._api import suppress_langchain_beta_warning
from langchain_core.load import Serializable, dumpd, load
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage
from langchain_core.prompts import (
    AIMessagePromptTemplate,
    ChatPromptTemplate,
    HumanMessagePromptTemplate,
    MessagesPlaceholder,
    PromptTemplate,
    SystemMessagePromptTemplate,
)
from langchain_core.runnables import Runnable, RunnableLambda

from langchain_tokenopt.errors import ConfigurationError
from langchain_tokenopt.files import write_whole
from langchain_tokenopt.reasoning.prompting import Example
from langchain_tokenopt.reasoning.technique import formatted, state_of

MakesRunnable: TypeAlias = Callable[[ChatPromptTemplate], Runnable[Any, Any]]

_FORMAT = 1
_READABLE: list[type[Serializable]] = [
    AIMessage, AIMessagePromptTemplate, ChatPromptTemplate, HumanMessage,
    HumanMessagePromptTemplate, MessagesPlaceholder, PromptTemplate, SystemMessage,
    SystemMessagePromptTemplate,
]  # fmt: skip
_SENTENCE = re.compile(r".+?(?:[.!?](?=\s)|\n|$)\s*", re.DOTALL)
_VARIABLE = re.compile(r"(?<!\{)(?:\{\{)*\{[^{}]*\}")


@dataclass(frozen=True, slots=True)
class PromptParts:
    """A chat prompt in parts."""

    instruction: str
    """A template in f-string format; "" for no system message."""
    examples: tuple[Example, ...]
    whole: ChatPromptTemplate
    """As it was taken apart; gives what is after the examples, and the partial variables."""
    after: int
    """How many of its messages are instruction and examples."""

    def prompt(self) -> ChatPromptTemplate:
        """Return the prompt of these parts."""
        messages: list[Any] = [("system", self.instruction)] if self.instruction else []
        for example in self.examples:
            messages += [HumanMessage(example.question), AIMessage(example.text)]
        messages += self.whole.messages[self.after :]
        return ChatPromptTemplate(messages, partial_variables=self.whole.partial_variables)

    @property
    def readable(self) -> str:
        """The instruction as a person writes it: braces that stand for themselves are single."""
        return self.instruction.replace("{{", "{").replace("}}", "}")

    def sentences(self) -> list[str]:
        """Return the sentences and lines of the instruction, which are the whole if joined."""
        return _SENTENCE.findall(self.instruction)

    def rewritten(self, text: str) -> "PromptParts | None":
        """Return the parts with an instruction that somebody wrote.

        Variables of the instruction may be moved; `None` if one of them is missing. All other
        braces stand for themselves, so a text can never ask for more than the prompt does.
        """
        escaped = text.strip().replace("{", "{{").replace("}", "}}")
        for variable in sorted(self._variables()):
            if f"{{{{{variable}}}}}" not in escaped:
                return None
            escaped = escaped.replace(f"{{{{{variable}}}}}", f"{{{variable}}}")
        return replace(self, instruction=escaped)

    def without(self, numbers: Sequence[int]) -> "PromptParts | None":
        """Return the parts without some sentences, `None` if one of those has a variable."""
        sentences = self.sentences()
        if any(_VARIABLE.search(sentences[number]) for number in numbers):
            return None
        kept = (text for number, text in enumerate(sentences) if number not in numbers)
        return replace(self, instruction="".join(kept).strip())

    def _variables(self) -> set[str]:
        return set(PromptTemplate.from_template(self.instruction).input_variables)


def parts_of(prompt: ChatPromptTemplate) -> PromptParts:
    """Take a prompt apart.

    Raises:
        ConfigurationError: Its system message is no text, or no template in f-string format.
    """
    messages, instruction, after = prompt.messages, "", 0
    first = messages[0] if messages else None
    if isinstance(first, SystemMessage | SystemMessagePromptTemplate):
        instruction, after = _instruction(first), 1
    examples = []
    while after + 1 < len(messages):
        question = _fixed(messages[after], HumanMessage, HumanMessagePromptTemplate)
        text = _fixed(messages[after + 1], AIMessage, AIMessagePromptTemplate)
        if question is None or text is None:
            break
        examples.append(Example(question, text))
        after += 2
    return PromptParts(instruction, tuple(examples), prompt, after)


def asked_with(model: Runnable[Any, Any]) -> MakesRunnable:
    """Return what makes a runnable of a prompt: the model, asked with it."""

    def make(prompt: ChatPromptTemplate) -> Runnable[Any, Any]:
        return RunnableLambda(lambda given: messages_for(prompt, given)) | model

    return make


def messages_for(prompt: ChatPromptTemplate, given: Any) -> list[BaseMessage]:
    """Return a prompt filled with an input: its variables, or a question as techniques take it."""
    if isinstance(given, Mapping) and set(prompt.input_variables) <= set(given):
        return prompt.format_messages(**given)
    return formatted(prompt, state_of(given))


def write_prompt(path: str | Path, prompt: ChatPromptTemplate) -> None:
    """Write a prompt to a file of JSON, which `read_prompt` reads."""
    told = {"tokenopt_prompt": _FORMAT, "prompt": dumpd(prompt)}
    write_whole(path, (json.dumps(told, ensure_ascii=False, indent=2) + "\n").encode())


def read_prompt(path: str | Path) -> ChatPromptTemplate:
    """Return the prompt that was written to a file.

    Only prompts and messages are read, whatever else the file holds.

    Raises:
        ConfigurationError: It is no such file.
    """
    try:
        told = json.loads(Path(path).read_text(encoding="utf-8"))
        if told["tokenopt_prompt"] != _FORMAT:
            raise ValueError(f"the format {told['tokenopt_prompt']!r} is unknown")
        with suppress_langchain_beta_warning():
            prompt = load(told["prompt"], allowed_objects=_READABLE)
    except (KeyError, TypeError, ValueError, NotImplementedError) as error:
        message = f"expected a prompt as write_prompt writes it in {path}: {error}"
        raise ConfigurationError(message) from error
    if not isinstance(prompt, ChatPromptTemplate):
        message = f"expected a chat prompt in {path}, got {type(prompt).__name__}"
        raise ConfigurationError(message)
    return prompt


def _instruction(message: SystemMessage | SystemMessagePromptTemplate) -> str:
    if isinstance(message, SystemMessage):
        if isinstance(message.content, str):
            return message.content.replace("{", "{{").replace("}", "}}")
    elif (
        isinstance(message.prompt, PromptTemplate) and message.prompt.template_format == "f-string"
    ):
        return message.prompt.template
    raise ConfigurationError(
        "expected a system message that is a text or a template in f-string format, got "
        f"{type(message).__name__} of another kind; write it as ('system', text)"
    )


def _fixed(message: Any, fixed: type[BaseMessage], template: type[Any]) -> str | None:
    """Return the text of a message without variables, `None` for any other."""
    if isinstance(message, fixed):
        return message.content if isinstance(message.content, str) else None
    if isinstance(message, template) and not message.input_variables:
        made: BaseMessage = message.format()
        return made.content if isinstance(made.content, str) else None
    return None
