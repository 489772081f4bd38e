"""ScriptedModel: what it refuses, and what its streams tell."""

from typing import Any

import pytest
from langchain_core.callbacks import BaseCallbackHandler

from langchain_tokenopt.errors import ConfigurationError
from langchain_tokenopt.testing import RecordedQuestion, ReplayModel, ScriptedModel


class Tokens(BaseCallbackHandler):
    """Notes the tokens of a stream."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def on_llm_new_token(self, token: str, **_: Any) -> None:
        self.told.append(token)


@pytest.mark.parametrize("answers", ["four", []])
def test_a_text_or_nothing_is_no_script(answers: Any) -> None:
    with pytest.raises(ConfigurationError, match="a sequence with at least one answer"):
        ScriptedModel(answers)


@pytest.mark.parametrize(
    "model",
    [
        ScriptedModel(["one\ntwo"]),
        ReplayModel([RecordedQuestion(question="q?", samples=("one\ntwo",))]),
    ],
)
def test_the_tokens_of_a_stream_of_events_are_told_to_callbacks(model: Any) -> None:
    heard = Tokens()

    list(model.stream_events("q?", {"callbacks": [heard]}, version="v3"))

    assert heard.told[:2] == ["one\n", "two"]
