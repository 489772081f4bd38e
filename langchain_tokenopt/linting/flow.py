"""What an expression's text is made of: pieces that stay equal, and pieces that do not."""

import ast
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from string import Formatter
from typing import Literal

Kind = Literal["static", "time", "date", "random", "unordered", "json", "request", "unknown"]

_TIME = frozenset(
    """
    datetime.datetime.now datetime.datetime.utcnow time.time time.time_ns time.ctime time.asctime
    time.localtime time.gmtime time.strftime time.monotonic time.perf_counter pendulum.now
    arrow.now arrow.utcnow django.utils.timezone.now pandas.Timestamp.now pandas.Timestamp.utcnow
    """.split()
)
_DATE = frozenset("datetime.date.today datetime.datetime.today pendulum.today".split())
_RANDOM_CALLS = frozenset(
    "uuid.uuid1 uuid.uuid4 uuid.uuid7 os.urandom id hash shortuuid.uuid nanoid.generate".split()
)
_RANDOM_MODULES = ("random.", "secrets.", "numpy.random.")
_UNORDERED_CALLS = frozenset(
    "set frozenset os.listdir os.scandir os.walk glob.glob glob.iglob".split()
)
_LISTING_METHODS = frozenset({"iterdir", "glob", "rglob"})
_SET_METHODS = frozenset({"intersection", "union", "difference", "symmetric_difference"})
_ORDERING = frozenset({"sorted", "min", "max", "sum", "len", "any", "all", "bool"})
_DAY_FORMAT = re.compile(r"%[HIMSfpXcsT]")
_NAMED_DATE = re.compile(r"^(get_|format_)?(today|current_date|todays_date)(_str|_string)?$")
_NAMED_TIME = re.compile(
    r"^(get_|format_)?(now|current_time|current_datetime|timestamp|utc_?now)(_str|_string)?$"
)
# Constants from elsewhere that are long, in most code.
_LONG_CONSTANT = re.compile(r"PROMPT|RULES|INSTRUCTIONS|SYSTEM|HANDBOOK|POLICY|GUIDE|EXAMPLES")
# Names that are a request's own, in most code.
_REQUEST = re.compile(
    r"(^|_)(user|customer|client|account|session|conversation|thread|request|question|query|"
    r"input|message|email|now|time|timestamp|today|date|history|chat_history|context|retrieved|"
    r"docs?|documents?|chunks?|transcript|ticket|order)(_|s?$)|(^|_)(user|customer)_?(id|name)$",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a text."""

    kind: Kind
    length: int
    """Characters, where they are known."""
    name: str
    """What it is, for the message: the call, the variable."""
    node: ast.AST


@dataclass(slots=True)
class Scope:
    """What the names in a function or a module stand for."""

    names: dict[str, tuple[Piece, ...]] = field(default_factory=dict)
    outer: "Scope | None" = None
    functions: dict[str, ast.FunctionDef | ast.AsyncFunctionDef] = field(default_factory=dict)
    imports: Mapping[str, str] = field(default_factory=dict)

    def find(self, name: str) -> tuple[Piece, ...] | None:
        """Return what a name stands for, `None` if nobody here says."""
        if name in self.names:
            return self.names[name]
        return self.outer.find(name) if self.outer else None

    def function(self, name: str) -> ast.FunctionDef | ast.AsyncFunctionDef | None:
        """Return a function that is defined here or further out."""
        return self.functions.get(name) or (self.outer.function(name) if self.outer else None)


def is_of_a_request(name: str) -> bool:
    """Return whether a name is that of something each request has of its own.

    >>> is_of_a_request("user_name"), is_of_a_request("tools"), is_of_a_request("question")
    (True, False, True)
    """
    return bool(_REQUEST.search(name))


def dotted(node: ast.AST, imports: Mapping[str, str]) -> str:
    """Return the full name of what is called: `datetime.datetime.now`; "" if it has none."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        return ""
    parts.append(imports.get(node.id, node.id))
    return ".".join(reversed(parts))


def template_pieces(text: str, node: ast.AST) -> tuple[Piece, ...]:
    """Return the pieces of a template with `{variables}`."""
    pieces: list[Piece] = []
    try:
        parsed = list(Formatter().parse(text))
    except ValueError:  # braces that are no template's
        return (Piece("static", len(text), "", node),)
    for literal, name, _, _ in parsed:
        if literal:
            pieces.append(Piece("static", len(literal), "", node))
        if name is not None:
            kind: Kind = "request" if is_of_a_request(name) else "unknown"
            pieces.append(Piece(kind, 0, name, node))
    return tuple(pieces)


class Flow:
    """Says of which pieces expressions are made."""

    def __init__(self, imports: Mapping[str, str]) -> None:
        self._imports = imports
        self._depth = 0

    def pieces(self, node: ast.AST | None, scope: Scope) -> tuple[Piece, ...]:
        """Return the pieces of an expression's text, in their order."""
        if node is None or self._depth > 30:
            return ()
        self._depth += 1
        try:
            return self._pieces(node, scope)
        finally:
            self._depth -= 1

    def _pieces(self, node: ast.AST, scope: Scope) -> tuple[Piece, ...]:
        handlers: dict[type, Callable[[ast.AST, Scope], tuple[Piece, ...]]] = {
            ast.Constant: self._constant,
            ast.JoinedStr: self._joined,
            ast.FormattedValue: self._formatted,
            ast.BinOp: self._operation,
            ast.Name: self._name,
            ast.Call: self._call,
            ast.Attribute: self._attribute,
            ast.Subscript: self._subscript,
            ast.IfExp: self._choice,
            ast.Set: self._set,
            ast.SetComp: self._set,
            ast.ListComp: self._comprehension,
            ast.GeneratorExp: self._comprehension,
            ast.List: self._elements,
            ast.Tuple: self._elements,
            ast.Await: lambda each, inner: self.pieces(each.value, inner),  # type: ignore[attr-defined]
            ast.Starred: lambda each, inner: self.pieces(each.value, inner),  # type: ignore[attr-defined]
        }
        handler = handlers.get(type(node))
        return handler(node, scope) if handler else (Piece("unknown", 0, "", node),)

    def _constant(self, node: ast.AST, scope: Scope) -> tuple[Piece, ...]:
        assert isinstance(node, ast.Constant)  # noqa: S101 - for the type checker
        return (Piece("static", len(str(node.value)), "", node),)

    def _joined(self, node: ast.AST, scope: Scope) -> tuple[Piece, ...]:
        assert isinstance(node, ast.JoinedStr)  # noqa: S101 - for the type checker
        return _all(self.pieces(value, scope) for value in node.values)

    def _formatted(self, node: ast.AST, scope: Scope) -> tuple[Piece, ...]:
        assert isinstance(node, ast.FormattedValue)  # noqa: S101 - for the type checker
        found = self.pieces(node.value, scope)
        spec = node.format_spec
        if isinstance(spec, ast.JoinedStr) and all(
            isinstance(v, ast.Constant) for v in spec.values
        ):
            text = "".join(str(v.value) for v in spec.values if isinstance(v, ast.Constant))
            return _by_day(found, text)
        return found

    def _operation(self, node: ast.AST, scope: Scope) -> tuple[Piece, ...]:
        assert isinstance(node, ast.BinOp)  # noqa: S101 - for the type checker
        left, right = self.pieces(node.left, scope), self.pieces(node.right, scope)
        if isinstance(node.op, ast.Mod) and left and all(piece.kind == "static" for piece in left):
            total = sum(piece.length for piece in left)
            half = Piece("static", total // 2, "", node)  # see `format` below
            return (half, *right, half)
        return (*left, *right)

    def _name(self, node: ast.AST, scope: Scope) -> tuple[Piece, ...]:
        assert isinstance(node, ast.Name)  # noqa: S101 - for the type checker
        found = scope.find(node.id)
        if found is not None:
            return tuple(replace(piece, node=node) for piece in found)
        if node.id.isupper():
            length = 300 if _LONG_CONSTANT.search(node.id) else 0
            return (Piece("static", length, node.id, node),)
        return (Piece("unknown", 0, node.id, node),)

    def _attribute(self, node: ast.AST, scope: Scope) -> tuple[Piece, ...]:
        assert isinstance(node, ast.Attribute)  # noqa: S101 - for the type checker
        inner = self.pieces(node.value, scope)
        kinds = [piece for piece in inner if piece.kind not in ("static", "unknown")]
        # `now.year` still changes with the time, `request.rules` may not.
        followed = [piece for piece in kinds if piece.kind in ("time", "date", "random")]
        if followed:
            return tuple(followed)
        if kinds and is_of_a_request(node.attr):
            return (Piece("request", 0, node.attr, node),)
        return (Piece("unknown", 0, node.attr, node),)

    def _subscript(self, node: ast.AST, scope: Scope) -> tuple[Piece, ...]:
        assert isinstance(node, ast.Subscript)  # noqa: S101 - for the type checker
        key = node.slice
        name = key.value if isinstance(key, ast.Constant) and isinstance(key.value, str) else ""
        inner = self.pieces(node.value, scope)
        followed = tuple(p for p in inner if p.kind in ("time", "date", "random"))
        if followed:
            return followed
        return (Piece("request" if name and is_of_a_request(name) else "unknown", 0, name, node),)

    def _choice(self, node: ast.AST, scope: Scope) -> tuple[Piece, ...]:
        assert isinstance(node, ast.IfExp)  # noqa: S101 - for the type checker
        return worst((self.pieces(node.body, scope), self.pieces(node.orelse, scope)))

    def _set(self, node: ast.AST, scope: Scope) -> tuple[Piece, ...]:
        if isinstance(node, ast.Set) and len(node.elts) < 2:
            return (Piece("static", 0, "", node),)
        return (Piece("unordered", 0, "a set", node),)

    def _comprehension(self, node: ast.AST, scope: Scope) -> tuple[Piece, ...]:
        assert isinstance(node, ast.ListComp | ast.GeneratorExp)  # noqa: S101 - for the type checker
        sources = _all(self.pieces(each.iter, scope) for each in node.generators)
        followed = tuple(p for p in sources if p.kind in ("unordered", "random"))
        inner = tuple(
            p for p in self.pieces(node.elt, scope) if p.kind in ("time", "date", "random")
        )
        return (*followed, *inner) or (Piece("unknown", 0, "", node),)

    def _elements(self, node: ast.AST, scope: Scope) -> tuple[Piece, ...]:
        assert isinstance(node, ast.List | ast.Tuple)  # noqa: S101 - for the type checker
        return _all(self.pieces(element, scope) for element in node.elts)

    def _call(self, node: ast.AST, scope: Scope) -> tuple[Piece, ...]:
        assert isinstance(node, ast.Call)  # noqa: S101 - for the type checker
        name = dotted(node.func, self._imports)
        known = self._known_call(node, name, scope)
        if known is not None:
            return known
        if isinstance(node.func, ast.Attribute):
            return self._method(node, node.func, scope)
        arguments = _all(self.pieces(argument, scope) for argument in node.args)
        if name in ("str", "repr", "list", "tuple", "format", "textwrap.dedent", "reversed"):
            return arguments
        if name in _ORDERING:
            return tuple(piece for piece in arguments if piece.kind != "unordered")
        function = scope.function(name)
        if function is not None:
            return self._returned(function, scope)
        return (Piece(_kind_by_name(name), 0, name, node),)

    def _known_call(self, node: ast.Call, name: str, scope: Scope) -> tuple[Piece, ...] | None:
        kind: Kind | None = None
        if name in _TIME or name.endswith((".datetime.now", ".datetime.utcnow")):
            kind = "time"
        elif name in _DATE:
            kind = "date" if name != "datetime.datetime.today" else "time"
        elif name in _RANDOM_CALLS or (
            name.startswith(_RANDOM_MODULES) and not name.endswith(("Random", "seed"))
        ):
            kind = "random"
        elif name in _UNORDERED_CALLS and (node.args or name.startswith(("os.", "glob."))):
            kind = "unordered"
        elif name == "json.dumps":
            keys = {keyword.arg: keyword.value for keyword in node.keywords}
            chosen = keys.get("sort_keys")
            if isinstance(chosen, ast.Constant) and chosen.value:
                return tuple(
                    p for a in node.args[:1] for p in self.pieces(a, scope) if p.kind != "static"
                ) or (Piece("static", 0, "", node),)
            literal = bool(node.args) and isinstance(node.args[0], ast.Dict | ast.List)
            if literal or None in keys:
                return (Piece("unknown", 0, name, node),)
            kind = "json"
        if name == "time.strftime" and node.args and isinstance(node.args[0], ast.Constant):
            return _by_day((Piece("time", 0, name, node),), str(node.args[0].value))
        return None if kind is None else (Piece(kind, 0, name, node),)

    def _method(  # noqa: PLR0911 - one return for each kind of method
        self, node: ast.Call, function: ast.Attribute, scope: Scope
    ) -> tuple[Piece, ...]:
        owner = self.pieces(function.value, scope)
        arguments = _all(self.pieces(argument, scope) for argument in node.args)
        keywords = _all(self.pieces(keyword.value, scope) for keyword in node.keywords)
        if function.attr in _LISTING_METHODS and not any(p.kind == "static" for p in owner):
            return (Piece("unordered", 0, f".{function.attr}()", node),)
        if function.attr in _SET_METHODS and any(p.kind == "unordered" for p in owner):
            return owner
        if function.attr == "join":
            return (*owner, *arguments)
        if function.attr == "format":
            # Where each value stands is not followed: half before them, half behind.
            half = Piece("static", sum(p.length for p in owner) // 2, "", node)
            return (half, *arguments, *keywords, half)
        if function.attr == "strftime" and node.args and isinstance(node.args[0], ast.Constant):
            return _by_day(owner, str(node.args[0].value))
        if function.attr == "date":
            return _by_day(owner, "")
        text = ("strip", "lstrip", "rstrip", "lower", "upper", "replace", "title", "removeprefix")
        if function.attr in text or any(p.kind in ("time", "date", "random") for p in owner):
            return owner
        return (Piece("unknown", 0, function.attr, node),)

    def _returned(
        self, function: ast.FunctionDef | ast.AsyncFunctionDef, scope: Scope
    ) -> tuple[Piece, ...]:
        returns = [each for each in ast.walk(function) if isinstance(each, ast.Return)]
        if len(returns) != 1:
            return (Piece("unknown", 0, function.name, function),)
        inner = Scope(outer=scope, imports=scope.imports)
        for statement in function.body:
            if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
                inner.names[statement.targets[0].id] = self.pieces(statement.value, inner)
        return self.pieces(returns[0].value, inner)


def _kind_by_name(name: str) -> Kind:
    """Return what a function from elsewhere gives, as far as its name says."""
    last = name.rsplit(".", 1)[-1]
    if _NAMED_DATE.search(last):
        return "date"
    return "time" if _NAMED_TIME.search(last) else "unknown"


def worst(choices: Iterable[Sequence[Piece]]) -> tuple[Piece, ...]:
    """Return of several texts the one that changes most."""
    order = ("static", "unknown", "json", "date", "request", "unordered", "random", "time")
    return tuple(
        max(choices, key=lambda pieces: max((order.index(p.kind) for p in pieces), default=-1))
    )


def _all(parts: Iterable[Sequence[Piece]]) -> tuple[Piece, ...]:
    return tuple(piece for part in parts for piece in part)


def _by_day(pieces: Sequence[Piece], form: str) -> tuple[Piece, ...]:
    """Return pieces with a time that is written without the hour as a date."""
    if _DAY_FORMAT.search(form):
        return tuple(pieces)
    return tuple(replace(p, kind="date") if p.kind == "time" else p for p in pieces)
