"""Find, in one file's syntax tree, what breaks provider caches: the file is read, never run."""

import ast
from collections.abc import Sequence
from dataclasses import dataclass

from langchain_tokenopt.linting.flow import (
    Flow,
    Kind,
    Piece,
    Scope,
    dotted,
    is_of_a_request,
    template_pieces,
    worst,
)
from langchain_tokenopt.linting.nodes import (
    SYSTEM_ROLES,
    dict_value,
    first,
    functions_of,
    imports_of,
    is_human,
    is_placeholder,
    is_system,
    looks_like_a_prompt,
    text_of,
)
from langchain_tokenopt.linting.rules import BY_CODE

_LONG = 200  # characters of static text behind a variable that are worth a word
_OF_KIND: dict[Kind, str] = {
    "time": "TOK101",
    "date": "TOK114",
    "random": "TOK102",
    "unordered": "TOK103",
    "json": "TOK104",
}
_TEMPLATES = frozenset("SystemMessagePromptTemplate ChatPromptTemplate PromptTemplate".split())
_AGENTS = frozenset(
    "create_agent create_react_agent create_deep_agent create_supervisor create_swarm".split()
)
_MODELS = frozenset(
    """
    ChatOpenAI AzureChatOpenAI ChatAnthropic ChatGoogleGenerativeAI ChatVertexAI ChatBedrock
    ChatBedrockConverse ChatMistralAI ChatDeepSeek ChatXAI init_chat_model
    """.split()
)
_SELECTORS = frozenset({"FewShotChatMessagePromptTemplate", "FewShotPromptTemplate"})


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """One place where a rule holds."""

    line: int
    column: int
    code: str
    what: str
    """The call or the variable that it is about."""

    @property
    def message(self) -> str:
        """What is wrong and what to do."""
        rule = BY_CODE[self.code]
        about = f" ({self.what})" if self.what else ""
        return f"{rule.title}{about}; {rule.advice}"


def check(source: str, *, name: str = "<source>") -> list[Finding]:
    """Return what is found in Python source, in the order of its lines.

    Raises:
        SyntaxError: It is no Python.

    >>> [finding.code for finding in check('SystemMessage(f"Run {uuid.uuid4()}")')]
    ['TOK102']
    """
    tree = ast.parse(source, filename=name)
    visitor = _Checker(tree)
    visitor.visit(tree)
    visitor.relate()
    return sorted(set(visitor.findings))


class _Checker(ast.NodeVisitor):
    def __init__(self, tree: ast.Module) -> None:
        self.findings: list[Finding] = []
        self._imports = imports_of(tree)
        self._flow = Flow(self._imports)
        self._scope = Scope(imports=self._imports, functions=functions_of(tree))
        self._variables: dict[str, ast.AST] = {}
        """Variables of system templates, and where they stand."""
        self._given: dict[str, Piece] = {}
        """What is given for variables with a time or something random in it."""
        self._in_request = False

    # --- scopes ---

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        """Follow a function's names."""
        self._function(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        """Follow a function's names."""
        self._function(node)

    def _function(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        outer, was_in_request = self._scope, self._in_request
        arguments = node.args
        every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
        asked = {each.arg: is_of_a_request(each.arg) for each in every}
        self._scope = Scope(
            names={
                arg: (Piece("request" if own else "unknown", 0, arg, node),)
                for arg, own in asked.items()
            },
            outer=outer,
            functions=functions_of(node),
            imports=self._imports,
        )
        self._in_request = self._in_request or any(asked.values())
        for statement in node.body:
            self.visit(statement)
        self._scope, self._in_request = outer, was_in_request

    def visit_Assign(self, node: ast.Assign) -> None:
        """Note what a name stands for from here on."""
        self.visit(node.value)
        for target in node.targets:
            if isinstance(target, ast.Name):
                self._scope.names[target.id] = self._flow.pieces(node.value, self._scope)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        """Note what a name stands for from here on."""
        if node.value is not None:
            self.visit(node.value)
            if isinstance(node.target, ast.Name):
                self._scope.names[node.target.id] = self._flow.pieces(node.value, self._scope)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        """Note what is appended to a text."""
        self.visit(node.value)
        if isinstance(node.target, ast.Name) and isinstance(node.op, ast.Add):
            before = self._scope.find(node.target.id) or ()
            more = self._flow.pieces(node.value, self._scope)
            self._scope.names[node.target.id] = (*before, *more)

    def visit_For(self, node: ast.For) -> None:
        """Say of the names in a loop over a set that their order changes."""
        self.visit(node.iter)
        source = self._flow.pieces(node.iter, self._scope)
        loose = [piece for piece in source if piece.kind == "unordered"]
        for target in ast.walk(node.target):
            if isinstance(target, ast.Name):
                found = (Piece("unordered", 0, loose[0].name, node),) if loose else ()
                self._scope.names[target.id] = found or (Piece("unknown", 0, target.id, node),)
        for statement in (*node.body, *node.orelse):
            self.visit(statement)

    def visit_If(self, node: ast.If) -> None:
        """Follow both branches, and keep of each name what changes most."""
        self.visit(node.test)
        before = dict(self._scope.names)
        ends = []
        for branch in (node.body, node.orelse):
            self._scope.names = dict(before)
            for statement in branch:
                self.visit(statement)
            ends.append(self._scope.names)
        self._scope.names = {
            name: worst([end.get(name, ()) for end in ends]) for name in {*ends[0], *ends[1]}
        }

    # --- sinks ---

    def visit_Call(self, node: ast.Call) -> None:
        """Look at what is told to models, prompts, agents and tools."""
        name = dotted(node.func, self._imports).rsplit(".", 1)[-1]
        method = node.func.attr if isinstance(node.func, ast.Attribute) else ""
        keywords = {each.arg: each.value for each in node.keywords if each.arg}
        if name == "SystemMessage":
            self._system(keywords.get("content") or first(node))
        elif method in ("from_template", "from_messages") or name in _TEMPLATES:
            self._template(node, name, method, keywords)
        elif name in _AGENTS:
            told = keywords.get("system_prompt") or keywords.get("prompt")
            self._system(told)
            self._tools(keywords.get("tools"))
        elif name in _SELECTORS and "example_selector" in keywords:
            self._add("TOK111", node, "example_selector")
        elif name in _MODELS:
            self._model(node, keywords)
        self._methods(node, method, keywords)
        self.generic_visit(node)

    def _methods(self, node: ast.Call, method: str, keywords: dict[str, ast.expr]) -> None:
        if method == "bind_tools":
            self._tools(first(node) or keywords.get("tools"))
        elif method == "partial" and looks_like_a_prompt(node.func):
            for value in keywords.values():
                self._text(self._called_or_text(value), value, long_after=False)
        elif method == "insert" and len(node.args) == 2:
            self._insertion(node)
        elif method in ("invoke", "ainvoke", "stream", "astream", "batch", "format_messages"):
            self._note_given(node, keywords)
        if "prompt_cache_key" in keywords:
            changing = self._of(keywords["prompt_cache_key"], "time", "random")
            if changing:
                self._add("TOK109", keywords["prompt_cache_key"], changing[0].name)
        partial = keywords.get("partial_variables")
        if isinstance(partial, ast.Dict):
            for value in partial.values:
                self._text(self._called_or_text(value), value, long_after=False)

    def visit_Tuple(self, node: ast.Tuple) -> None:
        """Look at `("system", ...)`: a message in short."""
        if len(node.elts) == 2 and text_of(node.elts[0]) in SYSTEM_ROLES:
            self._system_template(node.elts[1])
        self.generic_visit(node)

    def visit_Dict(self, node: ast.Dict) -> None:
        """Look at messages and blocks as dicts."""
        given = {
            key.value: value
            for key, value in zip(node.keys, node.values, strict=True)
            if isinstance(key, ast.Constant) and isinstance(key.value, str)
        }
        if text_of(given.get("role")) in SYSTEM_ROLES and "content" in given:
            self._system(given["content"])
        if "cache_control" in given and "text" in given:
            changing = self._of(given["text"], "time", "random", "request")
            if changing:
                self._add("TOK110", given["text"], changing[0].name)
        self.generic_visit(node)

    def _system(self, content: ast.expr | None) -> None:
        """Look at the text of a system message."""
        if isinstance(content, ast.List):
            for block in content.elts:
                text = dict_value(block, "text")
                if text is not None and dict_value(block, "cache_control") is None:
                    self._text(self._flow.pieces(text, self._scope), text)
        elif content is not None:
            self._text(self._flow.pieces(content, self._scope), content)

    def _system_template(self, content: ast.expr) -> None:
        pieces = self._as_template(content)
        for piece in pieces:
            if piece.name and piece.kind in ("request", "unknown"):
                self._variables.setdefault(piece.name, piece.node)
        self._text(pieces, content)

    def _as_template(self, content: ast.expr) -> tuple[Piece, ...]:
        if isinstance(content, ast.Constant) and isinstance(content.value, str):
            return template_pieces(content.value, content)
        if isinstance(content, ast.BinOp) and isinstance(content.op, ast.Add):
            return (*self._as_template(content.left), *self._as_template(content.right))
        return self._flow.pieces(content, self._scope)

    def _template(
        self, node: ast.Call, name: str, method: str, keywords: dict[str, ast.expr]
    ) -> None:
        if method == "from_messages" or (name == "ChatPromptTemplate" and not method):
            self._messages(first(node) or keywords.get("messages"))
            return
        text = first(node) or keywords.get("template") or keywords.get("prompt")
        if text is None:
            return
        system = isinstance(node.func, ast.Attribute) and (
            dotted(node.func.value, self._imports).endswith("SystemMessagePromptTemplate")
        )
        if system:
            self._system_template(text)
        elif method == "from_template" or name == "PromptTemplate":
            # A prompt of one message: what changes may stand in it, at its end.
            self._text(self._as_template(text), text, only_before_long_text=True)

    def _messages(self, given: ast.expr | None) -> None:
        """Look at the order of a template's messages."""
        if not isinstance(given, ast.List | ast.Tuple):
            return
        changing: ast.AST | None = None
        for element in given.elts:
            if is_system(element, self._imports):
                if changing is not None:
                    self._add("TOK108", element, "")
                return
            if is_placeholder(element, self._imports) or is_human(element, self._imports):
                changing = element

    def _text(
        self,
        pieces: Sequence[Piece],
        node: ast.AST,
        *,
        long_after: bool = True,
        only_before_long_text: bool = False,
    ) -> None:
        """Look at the pieces of a text that should stay equal."""
        told: set[str] = set()
        for n, piece in enumerate(pieces):
            behind = sum(other.length for other in pieces[n + 1 :] if other.kind == "static")
            code = _OF_KIND.get(piece.kind)
            if piece.kind == "request" and long_after and behind >= _LONG:
                code = "TOK105"
            if code is None or code in told or (only_before_long_text and behind < _LONG):
                continue
            told.add(code)
            self._add(code, node, piece.name)

    def _tools(self, given: ast.expr | None) -> None:
        if given is None:
            return
        loose = self._of(given, "unordered", "random")
        if loose:
            self._add("TOK106", given, loose[0].name)
        elif (
            isinstance(given, ast.ListComp)
            and self._in_request
            and any(generator.ifs for generator in given.generators)
        ):
            self._add("TOK107", given, "")

    def _model(self, node: ast.Call, keywords: dict[str, ast.expr]) -> None:
        chosen = keywords.get("model") or keywords.get("model_name") or first(node)
        changing = self._of(chosen, "random") if chosen is not None else []
        if changing:
            self._add("TOK113", node, changing[0].name)

    def _insertion(self, node: ast.Call) -> None:
        where, what = node.args
        assert isinstance(node.func, ast.Attribute)  # noqa: S101 - for the type checker
        name = dotted(node.func.value, {}).rsplit(".", 1)[-1]
        first = isinstance(where, ast.Constant) and where.value == 0
        listed = name in ("messages", "history", "chat_history", "msgs", "conversation")
        if first and listed and is_human(what, self._imports):
            self._add("TOK112", node, "")

    def _note_given(self, node: ast.Call, keywords: dict[str, ast.expr]) -> None:
        given = dict(keywords)
        if node.args and isinstance(node.args[0], ast.Dict):
            for key, value in zip(node.args[0].keys, node.args[0].values, strict=True):
                if isinstance(key, ast.Constant):
                    given[str(key.value)] = value
        for name, value in given.items():
            changing = self._of(value, "time", "date", "random")
            if changing:
                self._given[name] = changing[0]

    def relate(self) -> None:
        """Find system templates whose variables are given a time elsewhere in the file."""
        for name, node in self._variables.items():
            piece = self._given.get(name)
            if piece is not None:
                self._add(_OF_KIND[piece.kind], node, f"{{{name}}} is {piece.name}")

    def _of(self, node: ast.AST, *kinds: Kind) -> list[Piece]:
        return [p for p in self._flow.pieces(node, self._scope) if p.kind in kinds]

    def _called_or_text(self, node: ast.expr) -> tuple[Piece, ...]:
        """Return the pieces of a partial variable: a text, or a function that makes one."""
        name = dotted(node, self._imports)
        if name:
            call = ast.copy_location(ast.Call(func=node, args=[], keywords=[]), node)
            called = self._flow.pieces(call, self._scope)
            if any(piece.kind in _OF_KIND for piece in called):
                return called
        if isinstance(node, ast.Lambda):
            return self._flow.pieces(node.body, self._scope)
        return self._flow.pieces(node, self._scope)

    def _add(self, code: str, node: ast.AST, what: str) -> None:
        line, column = getattr(node, "lineno", 1), getattr(node, "col_offset", 0)
        self.findings.append(Finding(line, column + 1, code, what))
