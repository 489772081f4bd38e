"""The shipped graphs under `langgraph dev`, asked by the real SDK client."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from langgraph_sdk import get_client, get_sync_client

from langchain_tokenopt.testing import ChatRequest, LoopbackServer

PROJECT = Path(__file__).resolve().parents[2]
ANSWERS = {"gpt-5-mini": "I don't know.", "gpt-5.1": "It is 4."}


def answer(request: ChatRequest) -> Any:
    if request.text == "hi":
        return "Hello!"
    if "reasoned about" in request.text:
        return "Answer: It is 4."
    return ANSWERS[request.model]


@pytest.fixture(scope="module")
def provider() -> Iterator[LoopbackServer]:
    with LoopbackServer(answer) as server:
        yield server


@pytest.fixture(scope="module")
def url(provider: LoopbackServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("server")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {
        **os.environ,
        "OPENAI_API_KEY": "any",
        "OPENAI_BASE_URL": provider.base_url,
        "LANGSMITH_TRACING": "false",
        "LANGGRAPH_CLI_NO_ANALYTICS": "1",
    }
    command = [
        sys.executable, "-m", "langgraph_cli", "dev", "--config", str(PROJECT / "langgraph.json"),
        "--host", "127.0.0.1", "--port", str(port), "--no-browser", "--no-reload",
    ]  # fmt: skip
    log = folder / "log.txt"
    with log.open("w") as out:
        server = subprocess.Popen(
            command, cwd=PROJECT, env=environment, stdout=out, stderr=subprocess.STDOUT
        )
        try:
            address = f"http://127.0.0.1:{port}"
            _until_ready(address, server, log)
            yield address
        finally:
            server.terminate()
            server.wait(20)


def _until_ready(address: str, server: "subprocess.Popen[bytes]", log: Path) -> None:
    for _ in range(600):
        if server.poll() is not None:
            break
        try:
            if httpx.get(f"{address}/ok").is_success:
                return
        except httpx.TransportError:
            time.sleep(0.1)
    pytest.fail(f"langgraph dev did not start: {log.read_text()[-3000:]}")


def test_a_run_answers_with_its_attempts(url: str, provider: LoopbackServer) -> None:
    with get_sync_client(url=url) as client:
        state: Any = client.runs.wait(
            None, "cascade", input={"messages": [{"role": "user", "content": "2 + 2?"}]}
        )

    assert state["answer"]["content"] == "It is 4."
    assert [attempt["tier"] for attempt in state["attempts"]] == ["small", "large"]
    assert [attempt["accepted"] for attempt in state["attempts"]] == [False, True]
    assert [r.model for r in provider.requests if r.text == "2 + 2?"] == ["gpt-5-mini", "gpt-5.1"]


async def test_a_thread_goes_on_and_streams_the_answer(url: str) -> None:
    async with get_client(url=url) as client:
        thread = await client.threads.create()
        streamed = ""
        for text in ("hi", "2 + 2?"):
            given = {"messages": [{"role": "user", "content": text}]}
            async for part in client.runs.stream(
                thread["thread_id"], "cascade", input=given, stream_mode="messages-tuple"
            ):
                if part.event == "messages":
                    streamed += str(part.data[0]["content"])
        state: Any = await client.threads.get_state(thread["thread_id"])

    assert streamed == "Hello!It is 4."
    contents = [message["content"] for message in state["values"]["messages"]]
    assert contents == ["hi", "Hello!", "2 + 2?", "It is 4."]


def test_the_graph_is_drawn_by_the_server(url: str) -> None:
    with get_sync_client(url=url) as client:
        (assistant,) = client.assistants.search(graph_id="cascade")
        drawn = client.assistants.get_graph(assistant["assistant_id"])

    nodes = {node["id"] for node in drawn["nodes"]}
    assert nodes == {"__start__", "choose_tier", "small", "gate", "large", "__end__"}


def test_the_multi_tier_graph_answers_from_its_cache_within_a_tenant(
    url: str, provider: LoopbackServer
) -> None:
    asked = {"messages": [{"role": "user", "content": "What is 2 and 2?"}]}
    with get_sync_client(url=url) as client:
        first, other, again = (
            client.runs.wait(None, "multi_tier", input=asked, context={"tenant": tenant})
            for tenant in ("acme", "bravo", "acme")
        )

    assert [state["tier"] for state in (first, other, again)] == ["large", "large", "cache"]
    assert again["answer"]["content"] == "It is 4."
    assert again["answer"]["response_metadata"]["tokenopt"]["tier"] == "cache"
    assert float(first["cost"]) > 0
    sent = [request.model for request in provider.requests if request.text == "What is 2 and 2?"]
    assert sent == ["gpt-5-mini", "gpt-5.1", "gpt-5-mini", "gpt-5.1"]


async def test_the_multi_tier_graph_streams_one_answer(url: str) -> None:
    given = {"messages": [{"role": "user", "content": "And what is 3 + 1?"}]}
    async with get_client(url=url) as client:
        parts = [
            part.data[0]["content"]
            async for part in client.runs.stream(
                None, "multi_tier", input=given, stream_mode="messages-tuple"
            )
            if part.event == "messages"
        ]

    assert "".join(parts) == "It is 4."


@pytest.mark.parametrize("name", ["chain_of_thought", "self_consistency"])
def test_a_technique_answers_with_what_it_used(url: str, name: str) -> None:
    asked = {"messages": [{"role": "user", "content": f"2 + 2, reasoned about by {name}?"}]}
    with get_sync_client(url=url) as client:
        state: Any = client.runs.wait(None, name, input=asked)

    assert state["result"]["answer"] == "It is 4"
    assert "It is 4" in state["messages"][-1]["content"]
    assert state["result"]["usage"]["rows"][0]["calls"] >= 1


def test_every_graph_of_the_project_is_drawn_by_the_server(url: str) -> None:
    graphs = json.loads((PROJECT / "langgraph.json").read_text())["graphs"]
    with get_sync_client(url=url) as client:
        drawn = {
            name: client.assistants.get_graph(
                client.assistants.search(graph_id=name)[0]["assistant_id"]
            )
            for name in graphs
        }

    assert len(drawn) >= 7
    assert all(len(each["nodes"]) >= 3 for each in drawn.values())
