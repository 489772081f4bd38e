"""Answers from given facts alone, one inference at a time, with the proof; or abstains.

Serve it with `langgraph dev`; it needs OPENAI_API_KEY. The model is read from
TOKENOPT_SMALL_MODEL. The facts stand before the last line of the question, a sentence each.
"""

import os
from functools import cache
from typing import Any

from langchain_openai import ChatOpenAI
from langgraph.graph.state import CompiledStateGraph

from langchain_tokenopt.reasoning import SelectionInference


@cache
def graph() -> CompiledStateGraph[Any, Any, Any, Any]:
    """Return the compiled graph, made on first use: importing this file needs no key."""
    model = ChatOpenAI(model=os.environ.get("TOKENOPT_SMALL_MODEL", "gpt-5-mini"))
    return SelectionInference(model).as_graph()
