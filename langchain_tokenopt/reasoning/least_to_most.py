"""Least-to-most: split a question, answer the parts, and the question from their answers.

After Zhou et al. (arXiv 2205.10625), with a plan that says what depends on what: parts that do not
are answered side by side, and each sees the answers that it needs instead of all before it.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, TypeAlias

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import Runnable, RunnableLambda
from langgraph.channels.untracked_value import UntrackedValue
from langgraph.graph import END, StateGraph
from langgraph.types import Send
from typing_extensions import override

from langchain_tokenopt.errors import ConfigurationError
from langchain_tokenopt.messages import last_human_text
from langchain_tokenopt.reasoning import extract
from langchain_tokenopt.reasoning.extract import Extractor
from langchain_tokenopt.reasoning.plan import (
    Plan,
    SubQuestion,
    direct,
    known_lines,
    problems_of,
    read_plan,
    settled,
)
from langchain_tokenopt.reasoning.plan_prompts import plan_prompt as default_plan_prompt
from langchain_tokenopt.reasoning.plan_prompts import step_prompt as default_step_prompt
from langchain_tokenopt.reasoning.prompting import Example, Style
from langchain_tokenopt.reasoning.result import TraceStep
from langchain_tokenopt.reasoning.steps import Ask, Reply, Steps, node
from langchain_tokenopt.reasoning.structured import Output, filled_in, output_of
from langchain_tokenopt.reasoning.technique import (
    BEGIN,
    OnBudget,
    Technique,
    TechniqueState,
    formatted,
)

OnError: TypeAlias = Literal["best", "raise"]
"""What a step that failed leads to: what is known so far, or the error."""


class LeastToMostState(TechniqueState):
    """State of the graph; what the steps came to is its `trace`."""

    plan: dict[str, Any]
    """The `Plan` as plain data, empty before there is one."""
    rejected: str
    """A plan that could not be used, and why, in words for the model."""
    note: str
    """What to say of the planning in the result."""
    next: str
    partial: bool
    """Whether the question is asked with what is known, for want of budget for the rest."""
    final: AIMessage | None
    """What the model wrote to the question itself."""
    failure: Annotated[Exception | None, UntrackedValue(Exception, guard=False)]
    """What the last wave failed with; no checkpoint holds it, so a resumed run asks again."""


class LeastToMost(Technique):
    r"""Plan smaller questions, answer them in waves, and then the question.

    A step sees the questions and answers that it depends on and nothing else, so what a step costs
    does not grow with the steps before it. A plan that cannot be used is asked for once again;
    after that, or if the plan is empty, the question is asked as by `ChainOfThought`.

    `trace` holds the plan, and for each step its question, answer and what it used.

    Args:
        model: A chat model.
        answer: Reads the answer to the question out of the text.
        max_steps: Steps of a plan at most, the question itself included.
        style: How much the model writes before an answer: `full`, `draft` or `none`.
        token_hint: Tokens that an answer is asked to stay below.
        examples: Demonstrations for answering the steps.
        plan_examples: Demonstrations of plans: `plan_prompt` says how they are written.
        output: `structured` fills a plan into a schema, `text` reads it from lines; by default
            what the model can do.
        plan_prompt: Gets `messages`.
        step_prompt: Asks the steps before the last; gets `known` and `question`.
        answer_prompt: Asks the question itself; gets `known`, `question` and `history`.
        on_error: What a step that failed leads to: the answers so far, or the error. Where nothing
            is known it is raised anyway. Its siblings are waited for, and a run from a checkpoint
            that raised asks again only what failed.
        on_budget: What a refused step leads to: the question asked with what is known, and no
            answer where that is refused too; or the error.

    >>> from langchain_tokenopt.testing import ScriptedModel
    >>> plan = "a: Age of Ann, who is twice 4?\nb: Age of Bob, who is 3?\nc: the question"
    >>> model = ScriptedModel([plan, "Answer: 8", "Answer: 3", "8 + 3 = 11.\nAnswer: 11"])
    >>> thinking = LeastToMost(model, answer=extract.number, output="text")
    >>> result = thinking.invoke("Ann is twice 4, Bob is 3. How old are they together?")
    >>> result.answer, [(step.id, step.uses) for step in result.trace]
    (Decimal('11'), [('plan', ()), ('a', ()), ('b', ()), ('c', ('a', 'b'))])
    """

    _state = LeastToMostState

    def __init__(
        self,
        model: BaseChatModel | Runnable[Any, AIMessage],
        *,
        answer: Extractor = extract.text,
        max_steps: int = 8,
        style: Style = "full",
        token_hint: int | None = None,
        examples: Sequence[Example] = (),
        plan_examples: Sequence[Example] = (),
        output: Output | None = None,
        plan_prompt: ChatPromptTemplate | None = None,
        step_prompt: ChatPromptTemplate | None = None,
        answer_prompt: ChatPromptTemplate | None = None,
        on_error: OnError = "best",
        on_budget: OnBudget = "best",
    ) -> None:
        super().__init__(name="least_to_most", on_budget=on_budget)
        if max_steps < 1:
            raise ConfigurationError(f"max_steps is a number above 0, got {max_steps}")
        if on_error not in ("best", "raise"):
            raise ConfigurationError(f"on_error is 'best' or 'raise', got {on_error!r}")
        self._model = model
        self._answer = answer
        self._max_steps = max_steps
        self._on_error = on_error
        self._output = output_of(model, output)
        filling: Any = model  # `output_of` has seen to it that it can
        self._planner = model if self._output == "text" else filled_in(filling, Plan)
        self.plan_prompt = plan_prompt or default_plan_prompt(
            max_steps=max_steps, output=self._output, examples=plan_examples
        )
        self.step_prompt = step_prompt or default_step_prompt(
            extract.text, style=style, token_hint=token_hint, examples=examples
        )
        self.answer_prompt = answer_prompt or default_step_prompt(
            answer, style=style, token_hint=token_hint, examples=examples
        )

    @override
    def _nodes(self, graph: "StateGraph[Any]") -> None:
        graph.add_node("plan", node(self._plan, "plan"))
        graph.add_node("solve", node(self._solve, "solve"))
        graph.add_node("gather", RunnableLambda(self._gather, name="gather"))
        graph.add_edge(BEGIN, "plan")
        graph.add_conditional_edges("plan", _next, ["plan", "solve", END])
        graph.add_edge("solve", "gather")
        graph.add_conditional_edges("gather", _next, ["solve", END])

    @override
    def _begin(self, state: TechniqueState) -> dict[str, Any]:
        new = {"plan": {}, "rejected": "", "note": "", "partial": False, "final": None}
        return {**super()._begin(state), **new, "failure": None}

    def _plan(self, state: LeastToMostState) -> Steps:
        question = last_human_text(state["messages"])
        messages = formatted(self.plan_prompt, state)
        if state["rejected"]:
            messages.append(
                HumanMessage(f"{state['rejected']}\nWrite a plan without these faults.")
            )
        reply = yield Ask(runnable=self._planner, input=messages, step="plan")
        if reply.refused:
            self._check_refusal(reply)
            return {
                **self._end(state, stop_reason="budget", reason=str(reply.error), reply=reply),
                "next": END,
            }
        plan, problems = self._read(reply.needed(), question)
        used = list(reply.usage)
        if plan is not None and not problems:
            return {"usage": used, **_planned(settled(plan, question=question))}
        why = " ".join(problems)
        if not state["rejected"]:
            shown = f"Your plan was refused:\n{plan}\n" if plan else "Your plan was refused. "
            return {"usage": used, "rejected": shown + why, "next": "plan"}
        note = f"asked as a plain chain of thought, since no plan could be used: {why}"
        return {"usage": used, **_planned(direct(question)), "note": note}

    def _read(self, given: Any, question: str) -> tuple[Plan | None, list[str]]:
        if self._output == "text":
            plan, fault = read_plan(given.text), 'No line such as "b (a): Question?" was found.'
        else:
            plan, fault = given["parsed"], "The schema was not filled in with steps."
        if plan is None:
            return None, [fault]
        return plan, problems_of(plan, question=question, max_steps=self._max_steps)

    def _solve(self, sent: Mapping[str, Any]) -> Steps:
        step, last = SubQuestion.model_validate(sent["step"]), sent["last"]
        prompt = self.answer_prompt if last else self.step_prompt
        known = f"Known:\n{sent['known']}\n\n" if sent["known"] else ""
        history = sent["messages"][:-1] if last else []
        messages = formatted(prompt, sent, known=known, question=step.question, history=history)
        reply = yield Ask(runnable=self._model, input=messages, step="solve", streamed=last)
        about: dict[str, Any] = {"id": step.id, "text": step.question, "uses": step.depends_on}
        if reply.error is not None:
            kind = "refused" if reply.refused else "failed"
            why = f"{type(reply.error).__name__}: {reply.error}"
            made = TraceStep(step=kind, **{**about, "text": f"{step.question} ({why})"})
            return {**_told(reply, made), "failure": reply.error}
        read = self._answer if last else extract.text
        made = TraceStep(step="solve", answer=read(reply.value.text), **about)
        return {**_told(reply, made), **({"final": reply.value} if last else {})}

    def _gather(self, state: LeastToMostState) -> dict[str, Any]:
        error, steps = state.get("failure"), _latest(state)
        if state["final"] is not None:
            return self._answered(state, state["final"])
        if error is None:
            # What failed without an error here was raised, and is asked again in a resumed run.
            return {"next": "solve"}
        if any(step.step == "failed" for step in steps):
            known = any(step.step == "solve" for step in steps)
            if self._on_error == "raise" or not known:
                raise error
            return self._stopped(state, stop_reason="error", reason=f"a step failed: {error}")
        if self._on_budget == "raise":
            raise error
        if state["partial"] or Plan.model_validate(state["plan"]).steps[-1].id == steps[-1].id:
            return self._stopped(state, stop_reason="budget", reason=str(error))
        return {"next": "solve", "partial": True, "failure": None}

    def _answered(self, state: LeastToMostState, message: AIMessage) -> dict[str, Any]:
        last = _latest(state)[-1]
        notes = [state["note"]] if state["note"] else []
        if state["partial"]:
            notes.append("asked with what was known, since the budget had no room for other steps")
        if last.answer is None:
            notes.append("no answer could be read out of the text")
        return self._stopped(
            state,
            stop_reason="budget" if state["partial"] else "answered",
            reason="; ".join(notes),
            answer=last.answer,
            text=message.text,
            message=message,
        )

    def _stopped(self, state: LeastToMostState, **about: Any) -> dict[str, Any]:
        shown = {**state, "trace": [step.model_dump() for step in _latest(state)]}
        return {**self._end(shown, **about), "next": END, "failure": None}


def _planned(plan: Plan) -> dict[str, Any]:
    shown = TraceStep(id="plan", step="plan", text=str(plan))
    trace = [shown.model_dump()] if len(plan.steps) > 1 else []
    return {"plan": plan.model_dump(), "trace": trace, "next": "solve"}


def _next(state: LeastToMostState) -> str | list[Send]:
    if state["next"] != "solve":
        return state["next"]
    plan = Plan.model_validate(state["plan"])
    answers = {
        step.id: "unknown" if step.answer is None else str(step.answer)
        for step in _latest(state)
        if step.step == "solve"
    }
    asked = [plan.steps[-1]] if state["partial"] else plan.ready(answers)
    return [
        Send(
            "solve",
            {
                "step": step.model_dump(),
                "last": step is plan.steps[-1],
                "known": known_lines(step, plan, answers),
                "messages": state["messages"],
                "variables": state["variables"],
            },
        )
        for step in asked
    ]


def _latest(state: LeastToMostState) -> list[TraceStep]:
    """Return the plan and the steps in its order, those asked again as they ended."""
    order = ["plan", *(step["id"] for step in state["plan"]["steps"])]
    found = {step["id"]: TraceStep.model_validate(step) for step in state["trace"]}
    return [found[each] for each in order if each in found]


def _told(reply: Reply, made: TraceStep) -> dict[str, Any]:
    return {"usage": list(reply.usage), "trace": [made.model_dump()]}
