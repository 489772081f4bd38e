"""The messages of a template: what they use, what a model sees of them, LangChain's form."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder

from langchain_tokenopt.errors import ConfigurationError
from langchain_tokenopt.prompts.library_text import (
    Segment,
    TemplateFormat,
    as_plain,
    for_langchain,
    names_in,
    outlined,
    segments_of,
)
from langchain_tokenopt.prompts.library_variables import Variable
from langchain_tokenopt.prompts.shape import Part, canonical_json

Role = Literal["system", "human", "ai", "messages"]
ROLES: tuple[str, ...] = get_args(Role)
_SHOWN_ROLES = {"human": "user", "ai": "assistant", "messages": "messages"}


@dataclass(frozen=True, slots=True)
class TemplateMessage:
    """One message of a template, or the place where messages are put in.

    >>> TemplateMessage("system", "Be brief.").role
    'system'
    """

    role: Role
    """`messages` for a placeholder."""
    content: str | Sequence[str | dict[str, Any]]
    """Text, content blocks, or the variable of a placeholder."""


@dataclass(frozen=True, slots=True)
class Text:
    """A text of a message, alone or as a block."""

    segments: tuple[Segment, ...]


@dataclass(frozen=True, slots=True)
class Block:
    """A block that is no text; its strings may hold variables."""

    value: dict[str, Any]
    names: frozenset[str]

    @property
    def is_image(self) -> bool:
        """Whether it shows an image."""
        return self.value.get("type") in ("image", "image_url", "input_image")


@dataclass(frozen=True, slots=True)
class Parsed:
    """A message that was read."""

    role: Role
    pieces: tuple[Text | Block, ...]
    placeholder: str | None
    whole: bool
    """Whether its content is one text, no list of blocks."""

    @property
    def names(self) -> set[str]:
        """The variables that it uses."""
        found = {self.placeholder} if self.placeholder else set()
        for piece in self.pieces:
            found |= piece.names if isinstance(piece, Block) else names_in(piece.segments)
        return found

    def part(self, template_format: TemplateFormat) -> Part:
        """Return what the version is made of."""
        if self.placeholder is not None:
            return Part("messages", self.placeholder)
        told = [
            {"block": _plain(piece.value, template_format)}
            if isinstance(piece, Block)
            else as_plain(piece.segments)
            for piece in self.pieces
        ]
        return Part(self.role, canonical_json(told[0] if self.whole else {"blocks": told}))

    def outline(self) -> Part:
        """Return the message with its variables as names, for people and for comparisons."""
        name = _SHOWN_ROLES.get(self.role, self.role)
        if self.placeholder is not None:
            return Part(name, f"{{{self.placeholder}}}")
        return Part(name, "".join(map(outline_of, self.pieces)))


def outline_of(piece: Text | Block) -> str:
    """Return a text or a block with its variables as names."""
    if isinstance(piece, Block):
        return f"\n{canonical_json(piece.value)}\n"
    return outlined(piece.segments)


def parsed(message: TemplateMessage, template_format: TemplateFormat) -> Parsed:
    """Read a message.

    Raises:
        ConfigurationError: It has no content, or holds what no template may.
    """
    role = message.role
    content: Any = message.content  # from a file, where anything may stand
    if role not in ROLES:
        raise ConfigurationError(f"expected a role out of {', '.join(ROLES)}, got {role!r}")
    if not content or (isinstance(content, str) and not content.strip()):
        raise ConfigurationError(f"expected a text or content blocks, got {content!r}")
    if role == "messages":
        if not isinstance(content, str):
            raise ConfigurationError(f"expected the name of a variable, got {content!r:.60}")
        return Parsed(role, (), placeholder=content.strip(), whole=True)
    if isinstance(content, str):
        return Parsed(role, (_text(content, template_format),), placeholder=None, whole=True)
    if not isinstance(content, Sequence):
        message_ = f"expected a text or a list of content blocks, got {type(content).__name__}"
        raise ConfigurationError(message_)
    pieces = tuple(_piece(block, template_format) for block in content)
    return Parsed(role, pieces, placeholder=None, whole=False)


def chat_prompt(
    messages: Sequence[TemplateMessage],
    *,
    template_format: TemplateFormat,
    variables: Sequence[Variable],
) -> ChatPromptTemplate:
    """Return LangChain's template; what is not required has its default.

    Raises:
        ConfigurationError: LangChain refuses it.
    """
    optional = {variable.name for variable in variables if not variable.required}
    made: list[Any] = []
    for message in messages:
        if message.role == "messages":
            name = str(message.content).strip()
            made.append(MessagesPlaceholder(name, optional=name in optional))
        else:
            made.append((message.role, _for_langchain(message.content, template_format)))
    try:
        prompt = ChatPromptTemplate.from_messages(made, template_format=template_format)
        defaults = {
            variable.name: variable.written(None) for variable in variables if not variable.required
        }
        prompt = prompt.partial(**defaults) if defaults else prompt
    except (ValueError, TypeError) as error:
        raise ConfigurationError(f"LangChain refuses the template: {error}") from error
    # LangChain does not look for variables inside mustache's sections.
    prompt.input_variables = [variable.name for variable in variables if variable.required]
    return prompt


def _text(text: str, template_format: TemplateFormat) -> Text:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ConfigurationError(f"expected text that UTF-8 can hold: {error}") from None
    return Text(segments_of(text, template_format))


def _piece(block: Any, template_format: TemplateFormat) -> Text | Block:
    if isinstance(block, str):
        return _text(block, template_format)
    if not isinstance(block, dict) or not block:
        raise ConfigurationError(f"expected a content block, got {block!r:.60}")
    if set(block) <= {"type", "text"} and isinstance(block.get("text"), str):
        return _refuse_sections(_text(block["text"], template_format))
    image = block.get("image_url")
    if isinstance(image, str):
        image = {"url": image}
    if image is not None:
        block = {**block, "type": "image_url", "image_url": image}  # as LangChain writes it
    if "path" in block or (isinstance(image, dict) and "path" in image):
        raise ConfigurationError("an image cannot be read from a path; give its url, or its base64")
    names: set[str] = set()
    for text in _strings(block):
        piece = _refuse_sections(_text(text, template_format))
        names |= names_in(piece.segments)
    return Block(block, frozenset(names))


def _refuse_sections(text: Text) -> Text:
    """Refuse what LangChain would leave empty: it looks for the outer variables alone."""
    inner = [each for each in text.segments if not isinstance(each, str)]
    if names_in(text.segments) - {each.name for each in inner}:
        raise ConfigurationError(
            "a content block cannot use a variable inside the section of another one; "
            "write the message as one text"
        )
    return text


def _strings(value: Any, *, inside_list: bool = False) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for each in value.values():
            yield from _strings(each)
    elif isinstance(value, list):
        if inside_list:
            raise ConfigurationError("a content block cannot hold a list inside a list")
        for each in value:
            yield from _strings(each, inside_list=True)


def _plain(value: Any, template_format: TemplateFormat) -> Any:
    if isinstance(value, str):
        return {"text": as_plain(segments_of(value, template_format))}
    if isinstance(value, dict):
        return {key: _plain(each, template_format) for key, each in value.items()}
    if isinstance(value, list):
        return [_plain(each, template_format) for each in value]
    return {"is": value}


def _for_langchain(content: Any, template_format: TemplateFormat) -> Any:
    if isinstance(content, str):
        return for_langchain(content, template_format)
    if isinstance(content, dict):
        return {key: _for_langchain(each, template_format) for key, each in content.items()}
    if isinstance(content, list | tuple):
        return [_for_langchain(each, template_format) for each in content]
    return content
