"""Smaller questions first, side by side where they can be, and then the question.

Serve it with `langgraph dev`; it needs OPENAI_API_KEY. The model is read from
TOKENOPT_SMALL_MODEL. An easy question is asked at once.
"""

import os
from functools import cache
from typing import Any

from langchain_openai import ChatOpenAI
from langgraph.graph.state import CompiledStateGraph

from langchain_tokenopt.reasoning import LeastToMost


@cache
def graph() -> CompiledStateGraph[Any, Any, Any, Any]:
    """Return the compiled graph, made on first use: importing this file needs no key."""
    model = ChatOpenAI(model=os.environ.get("TOKENOPT_SMALL_MODEL", "gpt-5-mini"))
    return LeastToMost(model, style="draft").as_graph()
