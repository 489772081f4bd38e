"""The loopback server, through the real clients of langchain-openai."""

import asyncio
import json
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from typing import Any

import openai
import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_openai import ChatOpenAI, OpenAIEmbeddings

from langchain_tokenopt.errors import ConfigurationError
from langchain_tokenopt.testing import (
    ChatRequest,
    Dropped,
    LoopbackServer,
    PromptCache,
    RateLimited,
    Reply,
    ServerError,
)
from langchain_tokenopt.tokens import counter_for

LONG = "The handbook says that parcels travel by night and rest by day. " * 130
WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Say the weather.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}


def chat(server: LoopbackServer, **options: Any) -> ChatOpenAI:
    given = {"model": "gpt-5-mini", "api_key": "any", "max_retries": 0, **options}
    return ChatOpenAI(base_url=server.base_url, **given)


def test_an_answer_carries_the_counted_usage(echo_server: LoopbackServer) -> None:
    answer = chat(echo_server).invoke([SystemMessage("Be brief."), HumanMessage("hello")])

    counter = counter_for("gpt-5-mini")
    read = counter.count_messages([SystemMessage("Be brief."), HumanMessage("hello")])
    assert answer.text == "You said: hello"
    assert answer.usage_metadata is not None
    assert answer.usage_metadata["input_tokens"] == read
    assert answer.usage_metadata["output_tokens"] == counter.count_text("You said: hello")


def test_a_stream_comes_in_pieces_and_reports_usage_only_when_asked(
    echo_server: LoopbackServer,
) -> None:
    asked = list(chat(echo_server, stream_usage=True).stream("one two"))
    unasked = list(chat(echo_server, stream_usage=False).stream("one two"))

    assert "".join(chunk.text for chunk in asked) == "You said: one two"
    assert sum(chunk.usage_metadata is not None for chunk in asked) == 1
    assert sum(bool(chunk.text) for chunk in asked) == 4
    assert not any(chunk.usage_metadata for chunk in unasked)


async def test_async_calls_and_streams_are_served(echo_server: LoopbackServer) -> None:
    model = chat(echo_server)

    answers = await asyncio.gather(*(model.ainvoke(f"number {n}") for n in range(20)))
    streamed = [chunk.text async for chunk in model.astream("hello")]

    assert [answer.text for answer in answers] == [f"You said: number {n}" for n in range(20)]
    assert "".join(streamed) == "You said: hello"


def test_n_choices_are_billed_for_one_prompt(echo_server: LoopbackServer) -> None:
    result = chat(echo_server, n=3).generate([[HumanMessage("hi")]])

    assert len(result.generations[0]) == 3
    billed = echo_server.billed[0]
    one = counter_for("gpt-5-mini").count_text("You said: hi")
    assert billed["completion_tokens"] == 3 * one


def test_logprobs_are_those_of_the_reply() -> None:
    reply = Reply(text="four score", token_logprobs=[-0.1, -0.7])
    with LoopbackServer([reply, reply]) as server:
        model = chat(server, logprobs=True, top_logprobs=1)
        whole = model.invoke("hi").response_metadata["logprobs"]["content"]
        streamed = model.stream("hi")
        parts = [c.response_metadata.get("logprobs") for c in streamed]

    assert [(entry["token"], entry["logprob"]) for entry in whole] == [
        ("four", -0.1),
        (" score", -0.7),
    ]
    assert whole[0]["top_logprobs"][0]["token"] == "four"
    assert [p["content"][0]["logprob"] for p in parts if p] == [-0.1, -0.7]


def test_tool_calls_arrive_whole_and_in_streams() -> None:
    reply = Reply(tool_calls=[{"name": "weather", "args": {"city": "Ulm"}, "id": "call_1"}])
    with LoopbackServer([reply, reply]) as server:
        model = chat(server).bind_tools([WEATHER])
        whole: Any = model.invoke("Weather in Ulm?")
        chunks = list(model.stream("Weather in Ulm?"))
        total: Any = chunks[0]
        for chunk in chunks[1:]:
            total = total + chunk

    assert whole.tool_calls[0]["args"] == {"city": "Ulm"}
    assert whole.response_metadata["finish_reason"] == "tool_calls"
    assert total.tool_calls[0]["args"] == {"city": "Ulm"}
    assert total.tool_calls[0]["id"] == "call_1"
    assert server.requests[0].body["tools"] == [WEATHER]


def test_a_conversation_with_tool_results_is_counted() -> None:
    call = AIMessage("", tool_calls=[{"name": "weather", "args": {"city": "Ulm"}, "id": "c1"}])
    messages: list[Any] = [HumanMessage("Weather?"), call, ToolMessage("rain", tool_call_id="c1")]
    with LoopbackServer(["It rains."]) as server:
        answer = chat(server).invoke(messages)

    assert server.errors == []
    assert answer.usage_metadata is not None
    assert answer.usage_metadata["input_tokens"] == counter_for("gpt-5-mini").count_messages(
        messages
    )


def test_a_rate_limit_is_told_with_its_wait_and_the_client_may_retry() -> None:
    with LoopbackServer([RateLimited(retry_after_s=0.01), "late", RateLimited()]) as server:
        answer = chat(server, max_retries=1).invoke("hi")
        with pytest.raises(openai.RateLimitError) as caught:
            chat(server).invoke("hi")

    assert answer.text == "late"
    assert len(server.requests) == 3
    assert "retry-after" not in caught.value.response.headers


def test_the_wait_of_a_rate_limit_is_a_header() -> None:
    with (
        LoopbackServer([RateLimited(retry_after_s=7)]) as server,
        pytest.raises(openai.RateLimitError) as caught,
    ):
        chat(server).invoke("hi")

    assert caught.value.response.headers["retry-after"] == "7"


def test_a_server_error_has_its_status_and_message() -> None:
    with LoopbackServer([ServerError(status=503, message="overloaded")]) as server:
        with pytest.raises(openai.InternalServerError, match="overloaded"):
            chat(server).invoke("hi")
        assert server.billed == []


@pytest.mark.parametrize("stream", [False, True])
def test_a_connection_dropped_before_the_answer_is_a_connection_error(stream: bool) -> None:
    with LoopbackServer([Dropped()]) as server:
        model = chat(server)
        with pytest.raises(openai.APIConnectionError):
            list(model.stream("hi")) if stream else model.invoke("hi")


def test_a_connection_dropped_in_a_stream_delivers_the_pieces_before() -> None:
    fault = Dropped(reply=Reply(text="one two three"), after_pieces=2)
    seen = ""
    with LoopbackServer([fault]) as server:
        with pytest.raises(Exception, match=r"(?i)connection|incomplete|closed"):  # noqa: PT012
            for chunk in chat(server).stream("hi"):
                seen += chunk.text
        assert server.billed[0]["completion_tokens"] > 0

    assert seen == "one two"


def test_a_client_that_hangs_up_is_counted_and_billed() -> None:
    long = Reply(text="word " * 20_000)
    with LoopbackServer([long]) as server:
        stream = chat(server).stream("hi")
        next(stream)
        stream.close()
        for _ in range(500):
            if server.abandoned:
                break
            threading.Event().wait(0.01)
        assert server.abandoned == 1
        assert server.billed[0]["completion_tokens"] > 10_000


def test_the_prompt_cache_follows_the_provider_rule() -> None:
    with LoopbackServer(lambda _: "ok", prompt_cache=PromptCache()) as server:
        model = chat(server)

        def cached(system: str, question: str) -> int:
            usage = model.invoke([SystemMessage(system), HumanMessage(question)]).usage_metadata
            assert usage is not None
            return usage["input_token_details"]["cache_read"]

        first, second, third = cached(LONG, "one"), cached(LONG, "two"), cached(LONG, "two")
        short = [cached("Be brief.", "one"), cached("Be brief.", "one")]
        other = cached("Another start. " + LONG, "one")

    prefix = counter_for("gpt-5-mini").count_text(LONG)
    assert first == other == 0
    assert short == [0, 0]
    assert second >= 1024
    assert (second - 1024) % 128 == 0
    assert prefix - 256 < second <= prefix + 128
    assert second <= third


def test_the_prompt_cache_forgets_and_is_kept_by_model() -> None:
    now = [0.0]
    cache = PromptCache(lifetime_s=60, clock=lambda: now[0])
    body = {"model": "m", "messages": [{"role": "user", "content": LONG}]}
    count = counter_for("gpt-5-mini").count_text

    def read(**change: Any) -> int:
        return cache.read({**body, **change}, input_tokens=2_000, count_text=count)[0]

    first, again, other = read(), read(), read(model="other")
    now[0] = 61.0
    late = read()

    assert (first, other, late) == (0, 0, 0)
    assert again >= 1024


@pytest.mark.parametrize("options", [{"minimum": 0}, {"step": 0}, {"lifetime_s": 0.0}])
def test_a_prompt_cache_that_could_keep_nothing_is_refused(options: Any) -> None:
    with pytest.raises(ConfigurationError, match="must be at least 1 and lifetime_s more than 0"):
        PromptCache(**options)


def test_writes_are_reported_where_the_model_charges_for_them() -> None:
    cache = PromptCache(reports_writes=True)
    with LoopbackServer(lambda _: "ok", prompt_cache=cache) as server:
        model = chat(server, model="gpt-5.6-sol", use_responses_api=False)
        details = [model.invoke(LONG).usage_metadata["input_token_details"] for _ in range(2)]

    assert details[0]["cache_creation"] >= 1024
    assert details[0]["cache_read"] == 0
    assert details[1]["cache_read"] >= 1024
    assert details[1]["cache_creation"] == 0


def test_limits_and_stop_words_cut_the_answer() -> None:
    text = "one two three four five six seven eight"
    with LoopbackServer([text, text]) as server:
        cut = chat(server, max_tokens=3).invoke("count")
        stopped = chat(server, model="gpt-4.1").invoke("count", stop=["four"])

    assert cut.response_metadata["finish_reason"] == "length"
    assert cut.text == "one two three"
    assert stopped.text == "one two three "


def test_the_served_tier_may_differ_from_the_one_asked_for() -> None:
    with LoopbackServer([Reply(text="ok"), Reply(text="ok", service_tier="default")]) as server:
        model = chat(server, service_tier="flex")
        tiers = [model.invoke("hi").response_metadata["service_tier"] for _ in range(2)]

    assert tiers == ["flex", "default"]


def test_reasoning_is_counted_in_the_output() -> None:
    with LoopbackServer([Reply(text="4", reasoning_tokens=100)]) as server:
        usage = chat(server).invoke("2 + 2?").usage_metadata

    assert usage is not None
    assert usage["output_tokens"] == 101
    assert usage["output_token_details"]["reasoning"] == 100


def test_an_error_in_the_answers_reaches_client_and_test() -> None:
    def broken(request: ChatRequest) -> str:
        raise LookupError(request.text)

    with LoopbackServer(broken) as server:
        with pytest.raises(openai.InternalServerError, match="LookupError"):
            chat(server).invoke("hi")
        assert [type(error) for error in server.errors] == [LookupError]


def test_a_script_that_ran_out_says_so() -> None:
    with LoopbackServer(["one"]) as server:
        model = chat(server)
        model.invoke("hi")
        with pytest.raises(openai.NotFoundError, match="no answer to 'again'"):
            model.invoke("again")


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/chat/completions", b"not json", 400),
        ("/chat/completions", b"[]", 400),
        ("/chat/completions", b'{"model": "m"}', 400),
        ("/embeddings", b'{"model": "m", "input": ""}', 400),
        ("/unknown", b"{}", 404),
    ],
)
def test_a_bad_request_gets_an_error_in_json(
    echo_server: LoopbackServer, path: str, body: bytes, status: int
) -> None:
    request = urllib.request.Request(echo_server.base_url + path, data=body)  # noqa: S310 - loopback

    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request)  # noqa: S310

    with caught.value as answer:
        assert answer.code == status
        assert json.load(answer)["error"]["message"]


def test_models_are_listed(echo_server: LoopbackServer) -> None:
    with openai.OpenAI(base_url=echo_server.base_url, api_key="any") as client:
        assert [model.id for model in client.models.list()] == ["loopback"]


@pytest.mark.parametrize("inputs", [["track my parcel", "track a parcel", "reset a password"]])
def test_embeddings_of_texts_that_share_words_are_near(
    echo_server: LoopbackServer, inputs: Sequence[str]
) -> None:
    embeddings = OpenAIEmbeddings(
        model="text-embedding-3-small",
        base_url=echo_server.base_url,
        api_key="any",
        check_embedding_ctx_length=False,
    )

    near, also, far = embeddings.embed_documents(list(inputs))

    def product(a: Sequence[float], b: Sequence[float]) -> float:
        return sum(x * y for x, y in zip(a, b, strict=True))

    assert product(near, near) == pytest.approx(1.0, abs=1e-5)
    assert product(near, also) > product(near, far)
    assert echo_server.billed[0]["prompt_tokens"] == sum(
        map(counter_for("text-embedding-3-small").count_text, inputs)
    )


def test_embeddings_take_token_ids_dimensions_and_base64(echo_server: LoopbackServer) -> None:
    with openai.OpenAI(base_url=echo_server.base_url, api_key="any") as client:
        packed = client.embeddings.create(model="m", input=[[1, 2, 3], [4]])
        plain = client.embeddings.create(
            model="m", input=[1, 2, 3], encoding_format="float", dimensions=16
        )

    assert [len(item.embedding) for item in packed.data] == [256, 256]
    assert packed.usage.prompt_tokens == 4
    assert len(plain.data) == 1
    assert plain.data[0].embedding == pytest.approx(packed.data[0].embedding[:16], abs=1e-6)


def test_a_server_that_does_not_run_has_no_address() -> None:
    server = LoopbackServer(["four"])

    with pytest.raises(ConfigurationError, match="with LoopbackServer"):
        _ = server.base_url


def test_a_text_is_no_script() -> None:
    with pytest.raises(ConfigurationError, match="list of answers"):
        LoopbackServer("four")


def test_a_server_can_be_started_again() -> None:
    server = LoopbackServer(lambda _: "ok")
    for _ in range(2):
        with server:
            assert chat(server).invoke("hi").text == "ok"


def test_a_request_is_known_by_its_last_message_of_a_user(echo_server: LoopbackServer) -> None:
    blocks = HumanMessage([{"type": "text", "text": "one "}, {"type": "text", "text": "two"}])

    begun = chat(echo_server).invoke([blocks, AIMessage("As for one:")])
    unasked = chat(echo_server).invoke([SystemMessage("Be brief.")])

    assert begun.text == "You said: one two"
    assert unasked.text == "You said: "


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_a_path_that_is_none_is_not_found(echo_server: LoopbackServer, method: str) -> None:
    status, body = sent(echo_server, method, "/nothing")

    assert (status, body["error"]["message"]) == (404, "no such path: /v1/nothing")


def test_an_error_of_the_server_itself_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    def broken(text: str) -> Any:
        raise LookupError("no vectors today")

    with (
        LoopbackServer(["four"], embed=broken) as server,
        openai.OpenAI(base_url=server.base_url, api_key="any", max_retries=0) as client,
        pytest.raises(openai.APIConnectionError),
    ):
        client.embeddings.create(model="m", input="hello")

    assert "LookupError: no vectors today" in capsys.readouterr().err


# --- files and batches --------------------------------------------------------------------------


def sent(
    server: LoopbackServer, method: str, path: str, body: Any = None, **headers: str
) -> tuple[int, dict[str, Any]]:
    data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    request = urllib.request.Request(  # noqa: S310 - loopback
        server.base_url + path, data=data, method=method, headers=headers
    )
    try:
        with urllib.request.urlopen(request) as answer:  # noqa: S310
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def line(name: str, **change: Any) -> dict[str, Any]:
    body = {"model": "gpt-5-mini", "messages": [{"role": "user", "content": name}]}
    row = {"custom_id": name, "method": "POST", "url": "/v1/chat/completions", "body": body}
    return {**row, **change}


def handed_in(client: openai.OpenAI, data: bytes) -> Any:
    file = client.files.create(file=data, purpose="batch")
    return client.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
    )


@pytest.fixture
def client(echo_server: LoopbackServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=echo_server.base_url, api_key="any", max_retries=0) as client:
        yield client


def test_a_file_is_kept_until_it_is_deleted(client: openai.OpenAI) -> None:
    file = client.files.create(file=b"one\ntwo\n", purpose="batch")

    assert client.files.retrieve(file.id).bytes == 8
    assert client.files.content(file.id).read() == b"one\ntwo\n"
    assert client.files.delete(file.id).deleted
    with pytest.raises(openai.NotFoundError, match="no such file"):
        client.files.content(file.id)


@pytest.mark.parametrize(
    ("rows", "code"),
    [
        ([line("a"), line("a")], "duplicate_custom_id"),
        ([line("a"), line("b", body={"model": "gpt-5", "messages": []})], "mismatched_model"),
        ([line("a", url="/v1/embeddings")], "invalid_json_line"),
        ([line("a", method="GET")], "invalid_json_line"),
        ([line("a", body="hello")], "invalid_json_line"),
        ([{"custom_id": "a"}], "invalid_json_line"),
        ([["a"]], "invalid_json_line"),
        ([], "invalid_size"),
    ],
)
def test_a_batch_of_bad_lines_fails_when_it_is_validated(
    client: openai.OpenAI, rows: list[Any], code: str
) -> None:
    batch = handed_in(client, "".join(json.dumps(row) + "\n" for row in rows).encode())

    assert batch.status == "failed"
    assert code in [problem.code for problem in batch.errors.data]
    assert client.batches.retrieve(batch.id).output_file_id is None


def test_a_batch_of_what_is_no_text_fails(client: openai.OpenAI) -> None:
    batch = handed_in(client, b"\xff\xfe")

    assert batch.status == "failed"
    assert (batch.errors.data[0].code, batch.errors.data[0].line) == ("invalid_json_line", 1)


def test_a_batch_that_has_ended_cannot_be_cancelled_any_more(client: openai.OpenAI) -> None:
    batch = handed_in(client, json.dumps(line("a")).encode())
    ended = client.batches.retrieve(batch.id)

    cancelled = client.batches.cancel(batch.id)

    assert (ended.status, cancelled.status) == ("completed", "completed")
    assert cancelled.output_file_id == ended.output_file_id


FORM = {"content-type": "multipart/form-data; boundary=x"}


@pytest.mark.parametrize(
    ("path", "body", "headers", "said"),
    [
        ("/batches", {"input_file_id": "file-9"}, {}, "no such file: file-9"),
        ("/batches", b"not json", {}, "the body is not a JSON object"),
        ("/batches", [1], {}, "the body is not a JSON object"),
        ("/files", b"a file", {}, "the form has no file"),
        (
            "/files",
            b'--x\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--x--',
            FORM,
            "the form has no file",
        ),
        ("/messages/batches", b"not json", {}, "the body is not a JSON object"),
        ("/messages/batches", {"requests": []}, {}, "custom_ids that are all different"),
        (
            "/messages/batches",
            {"requests": [{"custom_id": "a", "params": {}}] * 2},
            {},
            "custom_ids that are all different",
        ),
        ("/messages/batches", {"requests": [{"custom_id": "a"}]}, {}, "KeyError('params')"),
        ("/messages/batches", {"requests": ["a"]}, {}, "custom_id and params"),
    ],
)
def test_what_no_provider_would_take_is_refused_with_the_reason(
    echo_server: LoopbackServer, path: str, body: Any, headers: dict[str, str], said: str
) -> None:
    status, answer = sent(echo_server, "POST", path, body, **headers)

    assert status == 400
    assert said in answer["error"]["message"]
    assert echo_server.batches.created == 0


@pytest.mark.parametrize("path", ["/batches/batch_9", "/messages/batches/batch_9"])
def test_a_batch_that_is_none_is_not_found(echo_server: LoopbackServer, path: str) -> None:
    status, answer = sent(echo_server, "GET", path)

    assert (status, answer["error"]["message"]) == (404, "no such batch: batch_9")
