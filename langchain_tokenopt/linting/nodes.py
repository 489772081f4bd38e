"""What the linter asks of single nodes of a syntax tree."""

import ast

from langchain_tokenopt.linting.flow import dotted

SYSTEM_ROLES = frozenset({"system", "developer"})


def imports_of(tree: ast.Module) -> dict[str, str]:
    """Return what each imported name is in full."""
    found: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                found[alias.asname or alias.name.split(".")[0]] = (
                    alias.name if alias.asname else alias.name.split(".")[0]
                )
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                found[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    # Without an import, as in a notebook's cell, the usual names are meant.
    for name, full in (("datetime", "datetime.datetime"), ("date", "datetime.date")):
        found.setdefault(name, full)
    found.setdefault("np", "numpy")
    found.setdefault("pd", "pandas")
    return found


def functions_of(
    node: ast.AST,
) -> dict[str, ast.FunctionDef | ast.AsyncFunctionDef]:
    """Return the functions that are defined in a body."""
    body = getattr(node, "body", [])
    return {
        each.name: each for each in body if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)
    }


def first(node: ast.Call) -> ast.expr | None:
    """Return the first argument of a call."""
    return node.args[0] if node.args else None


def text_of(node: ast.AST | None) -> str | None:
    """Return a constant text."""
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


def dict_value(node: ast.AST, name: str) -> ast.expr | None:
    """Return the value of a key in a dict that is written out."""
    if not isinstance(node, ast.Dict):
        return None
    pairs = zip(node.keys, node.values, strict=True)
    return next((value for key, value in pairs if text_of(key) == name), None)


def last_name(node: ast.AST, imports: dict[str, str]) -> str:
    """Return the bare name of what is called or named."""
    called: ast.AST = node.func if isinstance(node, ast.Call) else node
    if isinstance(called, ast.Attribute) and called.attr == "from_template":
        called = called.value
    return dotted(called, imports).rsplit(".", 1)[-1]


def role_of(node: ast.AST) -> str | None:
    """Return the role of a message that is written as a tuple or a dict."""
    if isinstance(node, ast.Tuple) and len(node.elts) == 2:
        return text_of(node.elts[0])
    role = dict_value(node, "role")
    return text_of(role) if role is not None else None


def is_system(node: ast.AST, imports: dict[str, str]) -> bool:
    """Return whether an expression is a system message."""
    named = isinstance(node, ast.Call) and last_name(node, imports).startswith("SystemMessage")
    return named or role_of(node) in SYSTEM_ROLES


def is_human(node: ast.AST, imports: dict[str, str]) -> bool:
    """Return whether an expression is a user's message."""
    named = isinstance(node, ast.Call) and last_name(node, imports).startswith("HumanMessage")
    return named or role_of(node) in ("human", "user")


def is_placeholder(node: ast.AST, imports: dict[str, str]) -> bool:
    """Return whether an expression stands for a list of messages, other than system messages."""
    if isinstance(node, ast.Call) and last_name(node, imports) == "MessagesPlaceholder":
        named = next((each.value for each in node.keywords if each.arg == "variable_name"), None)
        name = text_of(first(node) or named)
    elif role_of(node) == "placeholder" and isinstance(node, ast.Tuple):
        name = text_of(node.elts[1])
    else:
        return False
    return "system" not in (name or "")


def looks_like_a_prompt(function: ast.AST) -> bool:
    """Return whether a method is one of a prompt, by its owner's name."""
    owner = dotted(function.value, {}) if isinstance(function, ast.Attribute) else ""
    return "prompt" in owner.lower() or "template" in owner.lower()
