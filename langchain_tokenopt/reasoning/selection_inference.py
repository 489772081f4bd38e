"""Selection-inference: choose facts, infer one more from just these, ask whether it is the answer.

After Creswell et al. (arXiv 2205.09712) and Creswell and Shanahan (arXiv 2208.14271): facts are
chosen by id, so that none can be made up, and a halter abstains rather than guess.
"""

import inspect
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal, TypeAlias, TypedDict

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import Runnable, RunnableLambda
from langgraph.graph import END, StateGraph
from typing_extensions import override

from langchain_tokenopt.errors import ConfigurationError
from langchain_tokenopt.messages import last_human_text
from langchain_tokenopt.reasoning import extract
from langchain_tokenopt.reasoning.extract import Extractor
from langchain_tokenopt.reasoning.facts import (
    Selection,
    Splitter,
    filled_selection,
    find_fact,
    given_facts,
    inferred_fact,
    is_unknown,
    listed,
    numbered,
    proof_of,
    read_selection,
    sentences,
)
from langchain_tokenopt.reasoning.result import StopReason, TraceStep
from langchain_tokenopt.reasoning.selection_prompts import (
    answer_form,
    halting_prompt,
    inference_prompt,
    selection_prompt,
    selection_schema,
)
from langchain_tokenopt.reasoning.selection_state import (
    SelectionState,
    added,
    first_state,
    known_facts,
    selected_texts,
    so_far,
    stalled,
    unusable,
    was_tried,
)
from langchain_tokenopt.reasoning.steps import Ask, Reply, Steps, node
from langchain_tokenopt.reasoning.structured import Output, filled_in, output_of
from langchain_tokenopt.reasoning.technique import (
    BEGIN,
    OnBudget,
    Technique,
    TechniqueState,
    formatted,
)

Halting: TypeAlias = Literal["separate", "merged"]
"""Whether the answer is asked for in a call of its own, or along with the next selection."""

SchemaIds: TypeAlias = Literal["known", "reserved"]
"""Whether the schema of a selection lists the facts known so far, or also those still to come."""

_STALLS = 2


class Inference(TypedDict):
    """What a check is asked about."""

    facts: list[str]
    conclusion: str


Check: TypeAlias = (
    Runnable[Inference, bool] | Callable[[Inference], bool] | Callable[[Inference], Awaitable[bool]]
)
"""Says whether the conclusion follows from the facts: a function, or a runnable with a model."""


class SelectionInference(Technique):
    r"""Answer from facts alone, one inference at a time, with the proof in the `trace`; or abstain.

    The facts are the key `facts` of the input (strings or documents), else the key `context`,
    split, else what stands before the last line of the question. A step sends the facts and what
    was inferred, never what was said. The inference sees nothing but the selected facts, and the
    halter nothing but the question and the newest fact.

    Args:
        model: A chat model.
        answer: Reads the answer out of what the halter writes.
        max_steps: Inferences after which it abstains.
        halting: `separate` asks after each inference, in a call without the other facts. `merged`
            lets a selection give the answer: about a third fewer calls, and more tokens, since the
            facts are sent once more at the end.
        check: Refuses an inference that does not follow. Without one a proof names only known
            facts, but is as sound as the model's inferences.
        output: `structured` fills the selection into a schema in which only ids of facts can be
            written, `text` reads it from a line; by default what the model can do.
        schema_ids: `reserved` lists ids of facts to come too, so that all steps send the same
            schema: providers put it before the facts in what they cache, so it pays from about a
            thousand tokens of facts on.
        split: Splits a context into facts.
        select_prompt: Gets `facts`, `question` and `inferred` (with what was tried in vain).
        infer_prompt: Gets `facts`, the selected ones.
        halt_prompt: Gets `question` and `fact`.
        on_budget: What a refused call leads to: abstention with what was inferred, or the error.

    >>> from langchain_tokenopt.testing import ScriptedModel
    >>> model = ScriptedModel(["Facts: f1, f3", "Bob is red.", "Answer: yes"])
    >>> reasoning = SelectionInference(model, answer=extract.boolean, output="text")
    >>> facts = ["Bob is big.", "Al is small.", "Big things are red."]
    >>> result = reasoning.invoke({"question": "Is Bob red?", "facts": facts})
    >>> result.answer, [(step.id, step.uses) for step in result.trace]
    (True, [('f1', ()), ('f3', ()), ('d1', ('f1', 'f3'))])
    """

    _state = SelectionState

    def __init__(
        self,
        model: BaseChatModel | Runnable[Any, AIMessage],
        *,
        answer: Extractor = extract.text,
        max_steps: int = 10,
        halting: Halting = "separate",
        check: Check | None = None,
        output: Output | None = None,
        schema_ids: SchemaIds = "known",
        split: Splitter = sentences,
        select_prompt: ChatPromptTemplate | None = None,
        infer_prompt: ChatPromptTemplate | None = None,
        halt_prompt: ChatPromptTemplate | None = None,
        on_budget: OnBudget = "best",
    ) -> None:
        super().__init__(name="selection_inference", on_budget=on_budget)
        if max_steps < 1:
            raise ConfigurationError(f"max_steps is a number above 0, got {max_steps}")
        if halting not in ("separate", "merged"):
            raise ConfigurationError(f"halting is 'separate' or 'merged', got {halting!r}")
        if schema_ids not in ("known", "reserved"):
            raise ConfigurationError(f"schema_ids is 'known' or 'reserved', got {schema_ids!r}")
        self._model: Any = model
        self._answer = answer
        self._max_steps = max_steps
        self._merged = halting == "merged"
        self._check = _runnable(check)
        self._output = output_of(model, output)
        self._reserves = schema_ids == "reserved"
        self._split = split
        self.select_prompt = select_prompt or selection_prompt(
            answer, output=self._output, merged=self._merged
        )
        self.infer_prompt = infer_prompt or inference_prompt()
        self.halt_prompt = halt_prompt or halting_prompt(answer)

    @override
    def _nodes(self, graph: "StateGraph[Any]") -> None:
        graph.add_node("select", node(self._select, "select"))
        graph.add_node("infer", node(self._infer, "infer"))
        graph.add_edge(BEGIN, "select")
        graph.add_conditional_edges("select", _next, ["infer", "select", END])
        last = "infer"
        if self._check is not None:
            graph.add_node("check", node(partial(self._judge, self._check), "check"))
            graph.add_conditional_edges("infer", _next, ["check", "select", END])
            last = "check"
        if self._merged:
            graph.add_conditional_edges(last, _next, ["select", END])
        else:
            graph.add_node("halt", node(self._halt, "halt"))
            graph.add_conditional_edges(last, _next, ["halt", "select", END])
            graph.add_conditional_edges("halt", _next, ["select", END])

    @override
    def _begin(self, state: TechniqueState) -> dict[str, Any]:
        update = super()._begin(state)
        question, facts = last_human_text(state["messages"]), update["variables"].get("facts")
        if facts is None:
            context = update["variables"].get("context")
            if context is None:
                context, _, question = question.strip().rpartition("\n")
            if not isinstance(context, str) or not context.strip():
                message = (
                    "expected 'facts' (strings or documents) or 'context' (a text) beside the "
                    "question, or lines before its last one; got none of them"
                )
                raise ConfigurationError(message)
            facts = self._split(context)
        return {**update, **first_state(question.strip(), given_facts(facts))}

    def _select(self, state: SelectionState) -> Steps:
        if state["stalled"] >= _STALLS:
            why = f"{_STALLS} steps in a row gave no new fact"
            return self._abstain(state, "no_progress", why)
        if state["steps"] >= self._max_steps and not self._merged:
            return self._capped(state)
        facts = listed(numbered(state["given"]))
        messages = self._formatted(self.select_prompt, state, facts=facts, inferred=so_far(state))
        ids = [fact.id for fact in known_facts(state)]
        reply = yield Ask(runnable=self._selector(ids), input=messages, step="select")
        if reply.refused:
            return self._out_of_budget(state, reply)
        return self._chosen(state, self._selection(reply.needed(), ids), reply)

    def _chosen(self, state: SelectionState, selection: Selection, reply: Reply) -> dict[str, Any]:
        update = {"usage": list(reply.usage), "problem": ""}
        problem, written = selection.problem, selection.answer
        answer = None if written is None else self._answer(written)
        if written is not None and answer is None:
            problem = f"{written!r} is no answer: write {answer_form(self._answer)}."
        if problem is not None:
            return {**update, **unusable(state, problem)}
        if written is not None:
            return self._halted(state, answer, written, selection.ids, reply)
        if not selection.ids:
            why = "the model found no fact that follows and helps"
            return self._abstain(state, "no_progress", why, reply)
        if state["steps"] >= self._max_steps:
            return self._capped(state, reply)
        if was_tried(state, selection.ids):
            # The same facts would give the same again, for the price of a call.
            return {**update, **stalled(state, selection.ids)}
        return {**update, "selected": list(selection.ids), "next": "infer"}

    def _infer(self, state: SelectionState) -> Steps:
        messages = self._formatted(self.infer_prompt, state, facts="\n".join(selected_texts(state)))
        reply = yield Ask(runnable=self._model, input=messages, step="infer")
        if reply.refused:
            return self._out_of_budget(state, reply)
        text = inferred_fact(reply.needed().text)
        used = {"usage": list(reply.usage)}
        if text is None:
            return {**used, **stalled(state, state["selected"])}
        known = find_fact(known_facts(state), text)
        if known is None:
            if self._check is not None:
                return {**used, "candidate": text, "next": "check"}
            return {**used, **self._added(state, text)}
        update = {**used, **stalled(state, state["selected"])}
        # Read off a given fact, the answer needs no new one.
        if known.id not in state["seen"] and not self._merged:
            return {**update, "newest": known.id, "next": "halt"}
        return update

    def _judge(self, check: Runnable[Any, Any], state: SelectionState) -> Steps:
        about = Inference(facts=selected_texts(state), conclusion=state["candidate"])
        reply = yield Ask(runnable=check, input=about, step="check")
        if reply.refused:
            return self._out_of_budget(state, reply)
        used = {"usage": list(reply.usage)}
        verdict = reply.needed()
        if inspect.isawaitable(verdict):  # it would pass for true, whatever it comes to
            if inspect.iscoroutine(verdict):
                verdict.close()
            message = "the check returned what has to be awaited; give the async function itself"
            raise ConfigurationError(message)
        if verdict:
            return {**used, **self._added(state, state["candidate"])}
        return {**used, **stalled(state, state["selected"])}

    def _halt(self, state: SelectionState) -> Steps:
        newest = next(fact for fact in known_facts(state) if fact.id == state["newest"])
        messages = self._formatted(self.halt_prompt, state, fact=newest.text)
        reply = yield Ask(runnable=self._model, input=messages, step="halt")
        if reply.refused:
            return self._out_of_budget(state, reply)
        text = reply.needed().text
        answer = None if is_unknown(text) else self._answer(text)
        if answer is not None:
            return self._halted(state, answer, text, [newest.id], reply)
        return {
            "usage": list(reply.usage),
            "seen": [*state["seen"], newest.id],
            "next": "select",
        }

    def _formatted(
        self, prompt: ChatPromptTemplate, state: SelectionState, **values: str
    ) -> list[BaseMessage]:
        return formatted(prompt, state, question=state["asked"], **values)

    def _selector(self, ids: list[str]) -> Runnable[Any, Any]:
        if self._output == "text":
            model: Runnable[Any, Any] = self._model
            return model
        if self._reserves:
            given = [each for each in ids if each.startswith("f")]
            ids = given + [f"d{number}" for number in range(1, self._max_steps + 1)]
        form = answer_form(self._answer) if self._merged else None
        return filled_in(self._model, selection_schema(ids, answer_form=form))

    def _selection(self, given: Any, ids: list[str]) -> Selection:
        if self._output == "text":
            found = read_selection(given.text, ids)
        else:
            found = filled_selection(given["parsed"], ids)
        return found if self._merged else replace(found, answer=None)

    def _added(self, state: SelectionState, text: str) -> dict[str, Any]:
        update = added(state, text)
        return {**update, "next": "select"} if self._merged else update

    def _halted(
        self, state: SelectionState, answer: Any, text: str, ids: Iterable[str], reply: Reply
    ) -> dict[str, Any]:
        proof = proof_of(ids, known_facts(state))
        return self._ended(
            state, proof, stop_reason="halted", answer=answer, text=text, reply=reply
        )

    def _capped(self, state: SelectionState, reply: Reply | None = None) -> dict[str, Any]:
        why = f"{self._max_steps} steps gave no answer"
        return self._abstain(state, "max_steps", why, reply)

    def _out_of_budget(self, state: SelectionState, reply: Reply) -> dict[str, Any]:
        self._check_refusal(reply)
        return self._abstain(state, "budget", str(reply.error), reply)

    def _abstain(
        self, state: SelectionState, stop_reason: StopReason, why: str, reply: Reply | None = None
    ) -> dict[str, Any]:
        if state["refused"]:
            why += f"; {state['refused']} selections could not be used, even asked for again"
        inferred = [step["id"] for step in state["trace"]]
        known = proof_of(inferred, known_facts(state))
        return self._ended(state, known, stop_reason=stop_reason, reason=why, reply=reply)

    def _ended(
        self, state: SelectionState, proof: Sequence[TraceStep], **about: Any
    ) -> dict[str, Any]:
        shown = {**state, "trace": [step.model_dump() for step in proof]}
        return {**self._end(shown, **about), "next": END}


def _next(state: SelectionState) -> str:
    return state["next"]


def _runnable(check: Check | None) -> Runnable[Any, Any] | None:
    if check is None or isinstance(check, Runnable):
        return check
    return RunnableLambda(check, name="check")
