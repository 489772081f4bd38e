"""A griffe extension: puts fences around what Markdown must leave alone in docstrings."""

import re
from typing import Any

import griffe

_EXAMPLE = re.compile(r"^>>> .*(?:\n.+)*", re.MULTILINE)
_TREE = re.compile(r"^.+(?:\n[├└│].*)+", re.MULTILINE)


class DocstringFences(griffe.Extension):
    """Puts a fence around each example and each drawn tree of a docstring."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Change the docstring of what was read."""
        if obj.docstring is not None:
            fenced = _EXAMPLE.sub(r"```pycon\n\g<0>\n```", obj.docstring.value)
            obj.docstring.value = _TREE.sub(r"```text\n\g<0>\n```", fenced)
