"""Several chains of thought and a vote, with as few samples as decide it.

Serve it with `langgraph dev`; it needs OPENAI_API_KEY. The model is read from
TOKENOPT_SMALL_MODEL. Answers are compared as texts;
give an extractor (`extract.number`, `extract.option(...)`) for questions of one kind.
"""

import os
from functools import cache
from typing import Any

from langchain_openai import ChatOpenAI
from langgraph.graph.state import CompiledStateGraph

from langchain_tokenopt.reasoning import SelfConsistency


@cache
def graph() -> CompiledStateGraph[Any, Any, Any, Any]:
    """Return the compiled graph, made on first use: importing this file needs no key."""
    model = ChatOpenAI(model=os.environ.get("TOKENOPT_SMALL_MODEL", "gpt-5-mini"))
    return SelfConsistency(model, style="draft", n=16).as_graph()
