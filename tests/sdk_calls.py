"""What an application does with the providers' own SDKs, written once for their sync and their async clients.

Each call takes base URLs and a flavour, and returns everything the SDK handed out (events, errors, statuses) as plain values, so
that two runs can be compared whole. `settled` blanks what a provider draws anew for every answer (ids, times).
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Literal

import anthropic
import google.genai
import openai
from google.genai import types as gemini_types

Flavour = Literal["sync", "async"]
KEY = "sk-journey-synthetic-0123456789"
"""What every call authenticates with: never to be found on disk."""


@dataclass(frozen=True, slots=True)
class Bases:
    """Where each provider is to be found."""

    openai: str
    anthropic: str
    gemini: str

    @staticmethod
    def of(url: str) -> Bases:
        """Straight at an upstream."""
        return Bases(f"{url}/v1", url, url)

    @staticmethod
    def through(url: str) -> Bases:
        """Through a gateway, as its README tells users to."""
        return Bases(f"{url}/openai/v1", f"{url}/anthropic", f"{url}/gemini")


@dataclass(frozen=True, slots=True)
class Models:
    """The names one upstream goes by."""

    gpt: str = "gpt-5"
    claude: str = "claude-journey"  # a name that no SDK will ever warn of as deprecated
    gemini: str = "gemini-2.5-flash"
    embedding: str = "text-embedding-3-small"
    realtime: str = "gpt-realtime"
    gemini_version: str | None = None
    """The version in Gemini's paths; None for the SDK's own choice."""


@dataclass(frozen=True, slots=True)
class Clients:
    """One client per provider, all of one flavour."""

    openai: Any
    anthropic: Any
    gemini: Any


Call = Callable[[Clients, Models], Awaitable[Any]]
CALLS: dict[str, Call] = {}


def call(function: Call) -> Call:
    CALLS[function.__name__] = function
    return function


# The two flavours differ in `await` and `async for` only; these three hide it.


async def got(value: Any) -> Any:
    """The value, awaited where it has to be."""
    return await value if inspect.isawaitable(value) else value


async def each(stream: Any) -> AsyncIterator[Any]:
    """The elements of a plain or async iterable."""
    if hasattr(stream, "__aiter__"):
        async for element in stream:
            yield element
    else:
        for element in stream:
            yield element


@contextlib.asynccontextmanager
async def within(manager: Any) -> AsyncIterator[Any]:
    """A plain or async context manager."""
    if hasattr(manager, "__aenter__"):
        async with manager as inner:
            yield inner
    else:
        with manager as inner:
            yield inner


@contextlib.asynccontextmanager
async def clients(bases: Bases, flavour: Flavour, models: Models) -> AsyncIterator[Clients]:
    """Fresh clients that never retry, closed on leaving."""
    is_async = flavour == "async"
    once = gemini_types.HttpRetryOptions(attempts=1)
    options = gemini_types.HttpOptions(base_url=bases.gemini, api_version=models.gemini_version, retry_options=once)
    gemini = google.genai.Client(api_key=KEY, http_options=options)
    openai_kind = openai.AsyncOpenAI if is_async else openai.OpenAI
    anthropic_kind = anthropic.AsyncAnthropic if is_async else anthropic.Anthropic
    made = Clients(
        openai_kind(base_url=bases.openai, api_key=KEY, max_retries=0),
        anthropic_kind(base_url=bases.anthropic, api_key=KEY, max_retries=0),
        gemini.aio if is_async else gemini,
    )
    try:
        yield made
    finally:
        await got(made.openai.close())
        await got(made.anthropic.close())
        if is_async:
            await made.gemini.aclose()
        gemini.close()


def plain(value: Any) -> Any:
    """An SDK's object as dicts, lists and scalars."""
    if hasattr(value, "model_dump"):
        # Warnings are the SDKs' own: their unions do not always know the member they were given.
        return value.model_dump(mode="json", warnings=False)
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    return [plain(inner) for inner in value] if isinstance(value, list | tuple) else value


VOLATILE = {"create_time", "created", "created_at", "date", "expires_at", "id", "last_response_id", "sdk_http_response"}


def settled(value: Any) -> Any:
    """`value` without what a provider draws anew for every answer."""
    if isinstance(value, dict):
        return {
            key: "..." if (key in VOLATILE or key.endswith("_id")) and inner is not None else settled(inner) for key, inner in value.items()
        }
    return [settled(inner) for inner in value] if isinstance(value, list | tuple) else value


def failed(error: Any) -> dict[str, Any]:
    """What an application can see of an error that an SDK raised."""
    response = getattr(error, "response", None)
    headers = getattr(response, "headers", {})
    kept = ("retry-after", "content-type", "x-ratelimit-limit-requests", "anthropic-ratelimit-requests-limit")
    return {
        "type": type(error).__name__,
        "status": getattr(error, "status_code", getattr(error, "code", None)),
        "body": plain(getattr(error, "body", getattr(error, "details", None))),
        "headers": {name: headers.get(name) for name in kept},
    }


WEATHER_SCHEMA: dict[str, Any] = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
CHAT_TOOL: Any = {"type": "function", "function": {"name": "get_weather", "description": "The weather.", "parameters": WEATHER_SCHEMA}}
RESPONSES_TOOL: Any = {
    "type": "function",
    "name": "get_weather",
    "description": "The weather.",
    "parameters": WEATHER_SCHEMA,
    "strict": False,
}
ANTHROPIC_TOOL: Any = {"name": "get_weather", "description": "The weather.", "input_schema": WEATHER_SCHEMA}
PLAIN: Any = [{"role": "user", "content": "plain-hello"}]
WEATHER: Any = [{"role": "user", "content": "tool-weather in Paris?"}]


@call
async def openai_chat(sdk: Clients, models: Models) -> Any:
    raw = await got(sdk.openai.chat.completions.with_raw_response.create(model=models.gpt, messages=PLAIN))
    return raw.status_code, plain(raw.parse())


@call
async def openai_chat_stream(sdk: Clients, models: Models) -> Any:
    options: Any = {"include_usage": True}
    stream = await got(sdk.openai.chat.completions.create(model=models.gpt, messages=PLAIN, stream=True, stream_options=options))
    async with within(stream):
        return [plain(chunk) async for chunk in each(stream)]


@call
async def openai_chat_stream_helper(sdk: Clients, models: Models) -> Any:
    async with within(sdk.openai.chat.completions.stream(model=models.gpt, messages=PLAIN)) as stream:
        events = [event.type async for event in each(stream)]
        return events, plain(await got(stream.get_final_completion()))


@call
async def openai_chat_tools(sdk: Clients, models: Models) -> Any:
    """Two turns: the call streamed, then the answer to its result."""
    stream = await got(sdk.openai.chat.completions.create(model=models.gpt, messages=WEATHER, tools=[CHAT_TOOL], stream=True))
    async with within(stream):
        chunks = [plain(chunk) async for chunk in each(stream)]
    first = await got(sdk.openai.chat.completions.create(model=models.gpt, messages=WEATHER, tools=[CHAT_TOOL]))
    said = first.choices[0].message
    result = {"role": "tool", "tool_call_id": said.tool_calls[0].id, "content": "7 °C and fog"}
    turns: Any = [*WEATHER, said.model_dump(exclude_none=True, exclude={"annotations"}), result]
    second = await got(sdk.openai.chat.completions.create(model=models.gpt, messages=turns, tools=[CHAT_TOOL]))
    return chunks, plain(first), plain(second)


@call
async def openai_responses(sdk: Clients, models: Models) -> Any:
    answer = await got(sdk.openai.responses.create(model=models.gpt, input="plain-hello"))
    return answer.output_text, plain(answer)


@call
async def openai_responses_stream(sdk: Clients, models: Models) -> Any:
    async with within(sdk.openai.responses.stream(model=models.gpt, input="think-first", reasoning={"summary": "auto"})) as stream:
        events = [plain(event) async for event in each(stream)]
        return events, (await got(stream.get_final_response())).output_text


@call
async def openai_responses_tools(sdk: Clients, models: Models) -> Any:
    stream = await got(sdk.openai.responses.create(model=models.gpt, input=WEATHER, tools=[RESPONSES_TOOL], stream=True))
    async with within(stream):
        return [plain(event) async for event in each(stream)]


@call
async def openai_embeddings(sdk: Clients, models: Models) -> Any:
    return plain(await got(sdk.openai.embeddings.create(model=models.embedding, input=["one", "zwei", "三"])))


@call
async def openai_file_upload(sdk: Clients, models: Models) -> Any:
    content = bytes(range(256)) * 300 + b"\r\n--not-the-boundary\r\n"
    return plain(await got(sdk.openai.files.create(file=("blob.bin", content), purpose="user_data")))


@call
async def openai_models(sdk: Clients, models: Models) -> Any:
    return [plain(model) async for model in each(sdk.openai.models.list())]


@call
async def openai_rate_limit(sdk: Clients, models: Models) -> Any:
    try:
        await got(sdk.openai.chat.completions.create(model="demo-429", messages=[{"role": "user", "content": "limit-me"}]))
    except openai.RateLimitError as error:
        return failed(error)
    raise AssertionError("a 429 was expected")


@call
async def openai_broken_stream(sdk: Clients, models: Models) -> Any:
    asked: Any = [{"role": "user", "content": "break-me"}]
    chunks: list[Any] = []
    try:
        stream = await got(sdk.openai.chat.completions.create(model="demo-abort", messages=asked, stream=True))
        async with within(stream):
            async for chunk in each(stream):
                chunks.append(plain(chunk))  # noqa: PERF401  what came before the break counts
    except Exception as error:
        return chunks, type(error).__name__
    raise AssertionError("a broken stream was expected")


@call
async def openai_realtime(sdk: Clients, models: Models) -> Any:
    events = []
    async with within(sdk.openai.realtime.connect(model=models.realtime)) as connection:
        events.append(plain(await got(connection.recv())))
        item: Any = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "plain-hello"}]}
        await got(connection.conversation.item.create(item=item))
        await got(connection.response.create())
        while events[-1]["type"] != "response.done":
            events.append(plain(await got(connection.recv())))
    return events


@call
async def openai_responses_socket(sdk: Clients, models: Models) -> Any:
    async with within(sdk.openai.responses.connect()) as connection:
        await got(connection.response.create(model=models.gpt, input=PLAIN))
        events = [plain(await got(connection.recv()))]
        while events[-1]["type"] != "response.completed":
            events.append(plain(await got(connection.recv())))
    return events


@call
async def anthropic_message(sdk: Clients, models: Models) -> Any:
    raw = await got(sdk.anthropic.messages.with_raw_response.create(model=models.claude, max_tokens=512, messages=PLAIN))
    return raw.status_code, plain(await got(raw.parse()))


@call
async def anthropic_stream(sdk: Clients, models: Models) -> Any:
    async with within(sdk.anthropic.messages.stream(model=models.claude, max_tokens=512, messages=PLAIN)) as stream:
        events = [plain(event) async for event in each(stream)]
        return events, plain(await got(stream.get_final_message()))


@call
async def anthropic_tools(sdk: Clients, models: Models) -> Any:
    """Two turns: the call streamed, then the answer to its result."""
    given: Any = {"model": models.claude, "max_tokens": 512, "tools": [ANTHROPIC_TOOL]}
    async with within(sdk.anthropic.messages.stream(messages=WEATHER, **given)) as stream:
        events = [event.type async for event in each(stream)]
        first = await got(stream.get_final_message())
    use = next(block for block in first.content if block.type == "tool_use")
    result = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": use.id, "content": "7 °C and fog"}]}
    said = {"role": "assistant", "content": [block.model_dump(exclude_none=True) for block in first.content]}
    second = await got(sdk.anthropic.messages.create(messages=[*WEATHER, said, result], **given))
    return events, plain(first), plain(second)


@call
async def anthropic_thinking(sdk: Clients, models: Models) -> Any:
    thinking: Any = {"type": "enabled", "budget_tokens": 1024}
    asked: Any = [{"role": "user", "content": "think-first"}]
    stream = await got(sdk.anthropic.messages.create(model=models.claude, max_tokens=2048, thinking=thinking, messages=asked, stream=True))
    async with within(stream):
        return [plain(event) async for event in each(stream)]


@call
async def anthropic_rate_limit(sdk: Clients, models: Models) -> Any:
    try:
        await got(sdk.anthropic.messages.create(model="demo-429", max_tokens=512, messages=[{"role": "user", "content": "limit-me"}]))
    except anthropic.RateLimitError as error:
        return failed(error)
    raise AssertionError("a 429 was expected")


@call
async def gemini_generate(sdk: Clients, models: Models) -> Any:
    answer = await got(sdk.gemini.models.generate_content(model=models.gemini, contents="plain-hello"))
    return answer.text, plain(answer)


@call
async def gemini_stream(sdk: Clients, models: Models) -> Any:
    stream = await got(sdk.gemini.models.generate_content_stream(model=models.gemini, contents="plain-hello"))
    return [plain(chunk) async for chunk in each(stream)]


@call
async def gemini_tools(sdk: Clients, models: Models) -> Any:
    function: Any = {"name": "get_weather", "description": "The weather.", "parameters_json_schema": WEATHER_SCHEMA}
    config: Any = {"tools": [{"function_declarations": [function]}]}
    answer = await got(sdk.gemini.models.generate_content(model=models.gemini, contents="tool-weather in Paris?", config=config))
    return plain(answer)


@call
async def gemini_rate_limit(sdk: Clients, models: Models) -> Any:
    try:
        await got(sdk.gemini.models.generate_content(model="demo-429", contents="limit-me"))
    except google.genai.errors.APIError as error:
        return failed(error)
    raise AssertionError("a 429 was expected")
