"""What the linter looks for, each with an example that it finds and one that it does not."""

from dataclasses import dataclass
from typing import Literal

Level = Literal["warning", "info"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One habit that breaks provider caches without a word."""

    code: str
    level: Level
    """`info` is told, and fails nothing."""
    title: str
    advice: str
    bad: str
    good: str


RULES: tuple[Rule, ...] = (
    Rule(
        code="TOK101",
        level="warning",
        title="the time stands in the static part of a prompt",
        advice="put it in the last message, behind all that stays equal",
        bad='SystemMessage(f"It is {datetime.now()}. You help.")',
        good='[SystemMessage("You help."), HumanMessage(f"It is {datetime.now()}. {question}")]',
    ),
    Rule(
        code="TOK102",
        level="warning",
        title="something random stands in the static part of a prompt",
        advice="leave it out, or put it in the last message",
        bad='SystemMessage(f"Run {uuid.uuid4()}. You help.")',
        good='model.invoke([SystemMessage("You help.")], {"run_id": uuid.uuid4()})',
    ),
    Rule(
        code="TOK103",
        level="warning",
        title="the order of a set or of a listing stands in a prompt",
        advice="sort it: the order differs from process to process",
        bad='SystemMessage("Topics: " + ", ".join({"books", "maps"}))',
        good='SystemMessage("Topics: " + ", ".join(sorted({"books", "maps"})))',
    ),
    Rule(
        code="TOK104",
        level="info",
        title="JSON without sorted keys stands in the static part of a prompt",
        advice="write json.dumps(..., sort_keys=True)",
        bad='SystemMessage("Settings: " + json.dumps(settings))',
        good='SystemMessage("Settings: " + json.dumps(settings, sort_keys=True))',
    ),
    Rule(
        code="TOK105",
        level="warning",
        title="what changes from request to request stands before a long static text",
        advice="put it behind the static text, best in the last message",
        bad='ChatPromptTemplate.from_messages([("system", "You help {user_name}. " + RULES)])',
        good='ChatPromptTemplate.from_messages([("system", RULES), ("human", "{user_name}: {q}")])',
    ),
    Rule(
        code="TOK106",
        level="warning",
        title="tools are given in an order that changes",
        advice="sort them by name",
        bad="model.bind_tools(list({search, order}))",
        good="model.bind_tools([order, search])",
    ),
    Rule(
        code="TOK107",
        level="info",
        title="tools are chosen by the request",
        advice="give every request the same tools, and choose by tool_choice",
        bad=(
            "def answer(user):\n"
            "    return model.bind_tools([tool for tool in TOOLS if user.may(tool)])"
        ),
        good="def answer(user):\n    return model.bind_tools(TOOLS)",
    ),
    Rule(
        code="TOK108",
        level="warning",
        title="the system message comes after what changes",
        advice="put it first, the history behind it and the question last",
        bad=(
            "ChatPromptTemplate.from_messages("
            '[MessagesPlaceholder("history"), ("system", "You help.")])'
        ),
        good=(
            "ChatPromptTemplate.from_messages("
            '[("system", "You help."), MessagesPlaceholder("history")])'
        ),
    ),
    Rule(
        code="TOK109",
        level="warning",
        title="prompt_cache_key changes with every request",
        advice="make it of what the prefix is: a name and a version",
        bad="model.bind(prompt_cache_key=str(uuid.uuid4()))",
        good='model.bind(prompt_cache_key=f"support-{VERSION}")',
    ),
    Rule(
        code="TOK110",
        level="warning",
        title="a block that changes is marked to be cached",
        advice="mark the last block that stays equal",
        bad=(
            'SystemMessage([{"type": "text", "text": f"It is {datetime.now()}", '
            '"cache_control": {"type": "ephemeral"}}])'
        ),
        good=(
            'SystemMessage([{"type": "text", "text": "You help.", '
            '"cache_control": {"type": "ephemeral"}}])'
        ),
    ),
    Rule(
        code="TOK111",
        level="info",
        title="examples are chosen for each request in front of the question",
        advice="show the same examples always, or put them in the last message",
        bad="FewShotChatMessagePromptTemplate(example_selector=selector, example_prompt=one)",
        good="FewShotChatMessagePromptTemplate(examples=EXAMPLES, example_prompt=one)",
    ),
    Rule(
        code="TOK112",
        level="warning",
        title="a message is put in front of the history",
        advice="append it: what stands behind an insertion is no longer cached",
        bad="messages.insert(0, HumanMessage(found))",
        good="messages.append(HumanMessage(found))",
    ),
    Rule(
        code="TOK113",
        level="warning",
        title="the model is chosen at random",
        advice="choose it by the conversation: prefixes are cached by model",
        bad='ChatOpenAI(model=random.choice(["gpt-5", "gpt-5-mini"]))',
        good='ChatOpenAI(model="gpt-5-mini")',
    ),
    Rule(
        code="TOK114",
        level="info",
        title="the date stands in the static part of a prompt",
        advice="it breaks the prefix once a day; put it in the last message if that matters",
        bad='SystemMessage(f"Today is {date.today()}. You help.")',
        good='[SystemMessage("You help."), HumanMessage(f"Today is {date.today()}.")]',
    ),
)
BY_CODE = {rule.code: rule for rule in RULES}
