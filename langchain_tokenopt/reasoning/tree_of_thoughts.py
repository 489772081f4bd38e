"""Tree of thoughts: several next steps are proposed, checked and scored, and the best gone on from.

The method is that of arXiv 2305.10601.
"""

from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, TypeAlias, get_args

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import Runnable
from langgraph.graph import END, StateGraph
from langgraph.types import Overwrite, Send
from typing_extensions import override

from langchain_tokenopt.errors import ConfigurationError
from langchain_tokenopt.messages import last_human_text
from langchain_tokenopt.reasoning import extract
from langchain_tokenopt.reasoning.extract import Extractor
from langchain_tokenopt.reasoning.result import StopReason
from langchain_tokenopt.reasoning.steps import (
    Apply,
    Ask,
    AskMany,
    LookForRoom,
    Reply,
    Request,
    Steps,
    node,
)
from langchain_tokenopt.reasoning.technique import (
    BEGIN,
    OnBudget,
    Technique,
    TechniqueState,
    formatted,
)
from langchain_tokenopt.reasoning.tree_prompting import (
    read_scores,
    read_thoughts,
    tree_propose_prompt,
    tree_score_prompt,
    written_candidates,
    written_steps,
)
from langchain_tokenopt.reasoning.tree_search import (
    Beam,
    Fate,
    Search,
    Thought,
    ThoughtPath,
    best_leaf,
    child_id,
    marked_duplicates,
    path_to,
    proposed,
    ranked,
)
from langchain_tokenopt.reasoning.tree_state import Level, TreeState, plain, tree_of

PathVerdict: TypeAlias = Literal["solved", "dead", "undecided"]
PathCheck: TypeAlias = Callable[[ThoughtPath], PathVerdict | Awaitable[PathVerdict]]
"""Tells for sure, without a model, whether a path solves the question or cannot; may be async."""

_EXPAND, _JUDGE = "expand", "judge"
_DEFAULT_SEARCH = Beam(width=5)


class TreeOfThoughts(Technique):
    r"""Search a tree of partial solutions, whose steps a model proposes and scores.

    Each expansion is asked for with the steps before it, those of a level in parallel. What comes
    back costs as little as it can: a state that is in the tree already is dropped, then `check`
    decides what it can, and only what is left is scored, a level in one call. The search ends with
    the first path that the check accepts. The beam narrows to what a budget has room for, going by
    what expansions have cost so far.

    An expansion whose call fails is noted in the trace, and the others go on; the error is raised
    where none is left. The trace holds every thought with its parent, its fate and its score.

    Args:
        model: Proposes next steps.
        depth: How many steps a path has at most.
        count: How many next steps are asked for at once.
        search: `Beam(width)` or `DepthFirst(threshold=...)`.
        check: Decides what can be known for sure about a path: solved, dead or undecided.
        state_key: What two paths have in common that lead to the same state; by default only
            paths that read alike are the same.
        answer: Reads the answer out of the steps of the best path, a line each.
        scorer: Scores, where another model than `model` should.
        proposals: `list` asks for `count` different steps in one answer, `samples` for `count`
            answers with one step each (`n=`), which suits free text.
        propose_prompt: Used instead of `tree_propose_prompt()`; `read` must fit it.
        score_prompt: Used instead of `tree_score_prompt()`.
        read: Reads the steps out of what the model proposed.
        on_budget: What a refused call leads to: the best path so far, or the error.

    >>> from langchain_tokenopt.testing import ScriptedModel
    >>> model = ScriptedModel(["1. 4 + 4 = 8\n2. 6 * 4 = 24"])
    >>> def check(path: ThoughtPath) -> PathVerdict:
    ...     return "solved" if path.thoughts[-1].endswith("= 24") else "undecided"
    >>> tree = TreeOfThoughts(model, depth=3, check=check, answer=extract.number)
    >>> result = tree.invoke("Make 24 of 4, 4 and 6.")
    >>> result.text, result.stop_reason, result.usage.calls
    ('6 * 4 = 24', 'solved', 1)
    """

    _state = TreeState

    def __init__(
        self,
        model: BaseChatModel | Runnable[Any, AIMessage],
        *,
        depth: int,
        count: int = 5,
        search: Search = _DEFAULT_SEARCH,
        check: PathCheck | None = None,
        state_key: Callable[[ThoughtPath], str] | None = None,
        answer: Extractor = extract.text,
        scorer: BaseChatModel | Runnable[Any, AIMessage] | None = None,
        proposals: Literal["list", "samples"] = "list",
        propose_prompt: ChatPromptTemplate | None = None,
        score_prompt: ChatPromptTemplate | None = None,
        read: Callable[[str], Sequence[str]] = read_thoughts,
        on_budget: OnBudget = "best",
    ) -> None:
        super().__init__(name="tree_of_thoughts", on_budget=on_budget)
        if depth < 1 or count < 1:
            message = f"depth and count are at least 1, got depth={depth} and count={count}"
            raise ConfigurationError(message)
        if proposals not in ("list", "samples"):
            message = f"proposals is 'list' or 'samples', got {proposals!r}"
            raise ConfigurationError(message)
        if proposals == "samples" and not isinstance(model, BaseChatModel):
            message = f"samples need a chat model, got {type(model).__name__}"
            raise ConfigurationError(message)
        self.propose_prompt = propose_prompt or tree_propose_prompt()
        self.score_prompt = score_prompt or tree_score_prompt()
        self._model = model
        self._scorer = scorer or model
        self._sampled = proposals == "samples"
        self._depth = depth
        self._count = count
        self._search = search
        self._check = check
        self._key = state_key or _read_alike
        self._answer = answer
        self._read = read

    @override
    def _nodes(self, graph: "StateGraph[Any]") -> None:
        graph.add_node(_EXPAND, node(self._expand, _EXPAND))
        graph.add_node(_JUDGE, node(self._judge, _JUDGE))
        graph.add_conditional_edges(BEGIN, _next, [_EXPAND])
        graph.add_edge(_EXPAND, _JUDGE)
        graph.add_conditional_edges(_JUDGE, _next, [_EXPAND, END])

    @override
    def _begin(self, state: TechniqueState) -> dict[str, Any]:
        fresh = {"thoughts": Overwrite({}), "frontier": [""], "waiting": []}
        return {**super()._begin(state), **fresh, "expansions": 0, "dollars": None}

    # --- expanding a thought ----------------------------------------------------------------------

    def _expand(self, state: dict[str, Any]) -> Steps:
        parent, update = state["parent"], {}
        if not parent:
            room = (yield LookForRoom()).value
            update["dollars"] = None if room.dollars is None else str(room.dollars)
        reply = yield self._proposal(state)
        if reply.error is None:
            replies = reply.value if self._sampled else [reply.value]
            texts = [text for message in replies for text in self._read(message.text)]
            unread = "\n".join(message.text for message in replies)
            came = proposed(parent, texts) or [_note(parent, "unreadable", unread)]
        else:
            self._check_refusal(reply)
            if state["alone"] and not reply.refused:
                raise reply.error
            fate: Fate = "refused" if reply.refused else "failed"
            came = [_note(parent, fate, repr(reply.error))]
        return {**update, "thoughts": plain(came), "usage": list(reply.usage)}

    def _proposal(self, state: Mapping[str, Any]) -> Request:
        count = 1 if self._sampled else self._count
        steps = written_steps(state["path"])
        messages = formatted(self.propose_prompt, state, steps=steps, count=count)
        if self._sampled and isinstance(self._model, BaseChatModel):
            return AskMany(model=self._model, messages=messages, n=self._count, step="propose")
        return Ask(runnable=self._model, input=messages, step="propose")

    # --- judging what came back -------------------------------------------------------------------

    def _judge(self, state: TreeState) -> Steps:
        level = Level(state)
        if level.refusal is not None:
            return self._out_of_budget(level, level.refusal)
        if level.all_failed and len(state["frontier"]) > 1:
            # Asked again as the only one left, the first raises its error, and a run can be
            # resumed there.
            return {"frontier": state["frontier"][:1], "trace": level.trace[1:]}
        solved = yield from self._checked(level)
        if solved is not None:
            return self._finish(level, stop_reason="solved", leaf=solved)
        payable = level.payable((yield LookForRoom()).value)
        count = len(level.open)
        if self._search.needs_scores(count, last=self._is_last(level), payable=payable):
            refusal = yield from self._scored(level)
            if refusal is not None:
                return self._out_of_budget(level, refusal)
            payable = level.payable((yield LookForRoom()).value)  # what scoring left
        return self._after(level, payable)

    def _is_last(self, level: Level) -> bool:
        return any(thought.depth >= self._depth for thought in level.open)

    def _checked(self, level: Level) -> Generator[Request, Reply, Thought | None]:
        """Take in what is known for sure, and return the first thought that solves the question."""
        question = last_human_text(level.state["messages"])

        def path(thought: Thought) -> ThoughtPath:
            return ThoughtPath(question, path_to(level.tree, thought.id))

        level.put(
            marked_duplicates(level.tree, level.open, lambda thought: self._key(path(thought)))
        )
        check = self._check
        if check is None:
            return None
        for thought in level.open:
            verdict = (yield Apply(check, (path(thought),))).needed()
            if verdict not in get_args(PathVerdict):
                message = f"a check returns one of {get_args(PathVerdict)}, got {verdict!r}"
                raise ConfigurationError(message)
            if verdict != "undecided":
                level.put([replace(thought, fate=verdict)])
            if verdict == "solved":
                return level.tree[thought.id]
        return None

    def _scored(self, level: Level) -> Generator[Request, Reply, str | None]:
        """Take in scores of all open thoughts; return why a budget refused, if it did."""
        thoughts = level.open
        reply = yield self._score_call(level, thoughts)
        level.rows += reply.usage
        if reply.refused:
            self._check_refusal(reply)
            return str(reply.error)
        scores = read_scores(reply.needed().text, len(thoughts))
        for number, thought in enumerate(thoughts, start=1):
            score = scores.get(number)
            if score is None and not reply.refused:
                reply = yield self._score_call(level, [thought])
                level.rows += reply.usage
                self._check_refusal(reply)
                score = read_scores(reply.value.text, 1).get(1) if reply.error is None else None
            level.put([replace(thought, score=score)])
        return None

    def _score_call(self, level: Level, thoughts: Sequence[Thought]) -> Ask:
        candidates = written_candidates(level.tree, thoughts)
        messages = formatted(self.score_prompt, level.state, candidates=candidates)
        return Ask(runnable=self._scorer, input=messages, step="score")

    def _after(self, level: Level, payable: int | None) -> dict[str, Any]:
        """Return what follows when a level is judged: the next one, or the end."""
        best, last = ranked(level.open), self._is_last(level)
        if last and self._check is None and self._search.accepts(best[0]):
            return self._finish(level, stop_reason="accepted", leaf=best[0])
        plan = self._search.plan([] if last else best, level.state["waiting"], payable)
        most = self._search.max_expansions
        if plan.expand and (most is None or level.expansions < most):
            ahead = {"frontier": list(plan.expand), "waiting": list(plan.waiting)}
            return {**level.update, **ahead}
        leaf = best_leaf(level.tree, depth=self._depth)
        stop_reason: StopReason = "no_progress" if leaf is None else "answered"
        if plan.expand or (leaf is not None and self._check is not None):
            stop_reason = "max_steps"
        if leaf is None and self._check is None:
            leaf = best_leaf(level.tree)
        return self._finish(level, stop_reason=stop_reason, leaf=leaf)

    def _out_of_budget(self, level: Level, reason: str) -> dict[str, Any]:
        leaf = best_leaf(level.tree)
        return self._finish(level, stop_reason="budget", leaf=leaf, reason=reason)

    def _finish(
        self, level: Level, *, stop_reason: StopReason, leaf: Thought | None, reason: str = ""
    ) -> dict[str, Any]:
        text = "\n".join(path_to(level.tree, leaf.id)) if leaf is not None else ""
        end = self._end(
            level.state,
            stop_reason=stop_reason,
            reason=reason,
            answer=self._answer(text) if leaf is not None else None,
            text=text,
            reply=Reply(usage=tuple(level.rows)),
            trace=level.trace,
        )
        return {**level.update, **end}


def _next(state: TreeState) -> str | list[Send]:
    if state["result"]:
        return END
    tree, frontier = tree_of(state), state["frontier"]
    shared = {
        "messages": state["messages"],
        "variables": state["variables"],
        "alone": len(frontier) == 1 and not state["waiting"],
    }
    return [
        Send(_EXPAND, {**shared, "parent": parent, "path": path_to(tree, parent)})
        for parent in frontier
    ]


def _read_alike(path: ThoughtPath) -> str:
    return "\n".join(" ".join(thought.casefold().split()) for thought in path.thoughts)


def _note(parent: str, fate: Fate, text: str) -> Thought:
    return Thought(id=child_id(parent, 0), parent=parent, text=text, fate=fate)
