"""One call that reasons in a few words a step, and then answers.

Serve it with `langgraph dev`; it needs OPENAI_API_KEY. The model is read from
TOKENOPT_SMALL_MODEL. Most questions need no more.
"""

import os
from functools import cache
from typing import Any

from langchain_openai import ChatOpenAI
from langgraph.graph.state import CompiledStateGraph

from langchain_tokenopt.reasoning import ChainOfThought


@cache
def graph() -> CompiledStateGraph[Any, Any, Any, Any]:
    """Return the compiled graph, made on first use: importing this file needs no key."""
    model = ChatOpenAI(model=os.environ.get("TOKENOPT_SMALL_MODEL", "gpt-5-mini"))
    return ChainOfThought(model, style="draft").as_graph()
