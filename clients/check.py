"""Asks a running server with the real clients of OpenAI, Anthropic and Ollama.

python check.py http://127.0.0.1:8080 MODEL
"""

import asyncio
import json
import re
import sys
from typing import Literal

import anthropic
import ollama
import openai
from pydantic import BaseModel, ConfigDict, Field, ValidationError

BASE, MODEL = sys.argv[1], sys.argv[2]
MESSAGES = [{"role": "user", "content": "Say hello."}]
TOOL = {
    "name": "weather",
    "description": "The weather of a city",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}


class City(BaseModel):
    """What answers must be. Small models run on where a text or the number of fields has no bound."""

    model_config = ConfigDict(extra="forbid")

    name: Literal["Paris", "Rome", "Oslo"]
    millions: int = Field(ge=0, le=99)
    is_capital: bool


CITY = {
    "type": "object",
    "properties": {
        "name": {"enum": ["Paris", "Rome", "Oslo"]},
        "millions": {"type": "integer", "minimum": 0, "maximum": 99},
        "is_capital": {"type": "boolean"},
    },
    "required": ["name", "millions", "is_capital"],
    "additionalProperties": False,
}
ABOUT_CITY = [{"role": "user", "content": "Name a city, as JSON."}]
# Two functions of which each can be told from its arguments.
WEATHER = {
    "name": "weather",
    "description": "The weather of a city",
    "parameters": {"type": "object", "properties": {"city": {"enum": ["Paris", "Rome"]}}, "required": ["city"],
                   "additionalProperties": False},
}
CLOCK = {
    "name": "clock",
    "description": "The time in a zone",
    "parameters": {"type": "object", "properties": {"zone": {"type": "integer", "minimum": -12, "maximum": 12}},
                   "required": ["zone"], "additionalProperties": False},
}


def expect(condition, what):
    if not condition:
        raise SystemExit(f"failed: {what}")


def refused(kind, status, call):
    try:
        call()
    except kind as error:
        found = getattr(error, "status_code", None)
        expect(found == status, f"status {found} instead of {status}: {error}")
        return error
    raise SystemExit(f"failed: no {kind.__name__}")


def check_openai():
    client = openai.OpenAI(base_url=BASE + "/v1", api_key="any", max_retries=0)
    expect(any(model.id == MODEL for model in client.models.list()), "the model is listed")
    expect(client.models.retrieve(MODEL).id == MODEL, "the model is found")

    ask = dict(model=MODEL, messages=MESSAGES, temperature=0, max_tokens=16, seed=1)
    whole = client.chat.completions.create(**ask)
    text = whole.choices[0].message.content
    expect(text and whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens, "a chat")
    chunks = list(client.chat.completions.create(**ask, stream=True, stream_options={"include_usage": True}))
    streamed = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    expect(streamed == text, f"the stream: {streamed!r} and {text!r}")
    expect(chunks[-1].usage.completion_tokens == whole.usage.completion_tokens, "usage of the stream")
    scored = client.chat.completions.create(**ask, logprobs=True, top_logprobs=3)
    tokens = scored.choices[0].logprobs.content
    expect(len(tokens) == whole.usage.completion_tokens and len(tokens[0].top_logprobs) == 3, "log-probabilities")
    expect(tokens[0].logprob == tokens[0].top_logprobs[0].logprob, "the best token was taken")
    several = client.chat.completions.create(model=MODEL, messages=MESSAGES, n=2, max_tokens=4, seed=1)
    expect(len(several.choices) == 2, "two answers")
    tools = client.chat.completions.create(**ask, tools=[{"type": "function", "function": TOOL}])
    expect(tools.choices[0].message is not None, "tools are taken")
    call = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Rome"}'}}
    history = [*MESSAGES, {"role": "assistant", "content": None, "tool_calls": [call]},
               {"role": "tool", "tool_call_id": "call_1", "content": "Sunny."}]
    told = client.chat.completions.create(**{**ask, "messages": history}, tools=[{"type": "function", "function": TOOL}])
    expect(told.choices[0].finish_reason, "the result of a call is read")
    with client.chat.completions.stream(**ask) as stream:
        done = [event.content for event in stream if event.type == "content.done"]
    expect(done == [text], f"the client's own stream: {done}")
    # Who leaves in the middle leaves the others alone.
    for chunk in client.chat.completions.create(**{**ask, "max_tokens": 500}, stream=True):
        break

    expect(client.completions.create(model=MODEL, prompt="Once upon", max_tokens=5).choices[0].text, "a completion")
    vector = client.embeddings.create(model=MODEL, input=["one", "two"]).data[1].embedding
    expect(abs(sum(x * x for x in vector) - 1) < 1e-3, "a vector of length one")

    response = client.responses.create(model=MODEL, input="Say hello.", temperature=0, max_output_tokens=16)
    expect(response.output_text == text, "a response")
    expect(client.responses.retrieve(response.id).output_text == text, "the response was kept")
    events = list(client.responses.create(model=MODEL, input="Say hello.", temperature=0, max_output_tokens=16, stream=True))
    deltas = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    expect(deltas == text, "a streamed response")
    client.responses.delete(response.id)

    refused(openai.NotFoundError, 404, lambda: client.chat.completions.create(**{**ask, "model": "nobody"}))
    error = refused(openai.BadRequestError, 400, lambda: client.chat.completions.create(**{**ask, "temperature": -1}))
    expect(error.param == "temperature", "the parameter is named")
    refused(openai.BadRequestError, 400, lambda: client.chat.completions.create(**ask, extra_body={"unknown": 1}))


def called(name, arguments):
    """Whether this is a call of one of the two functions with arguments of its own."""
    if name == "weather":
        return list(arguments) == ["city"] and arguments["city"] in ("Paris", "Rome")
    return name == "clock" and list(arguments) == ["zone"] and -12 <= arguments["zone"] <= 12


def check_openai_constraints():
    client = openai.OpenAI(base_url=BASE + "/v1", api_key="any", max_retries=0)
    ask = dict(model=MODEL, messages=ABOUT_CITY, temperature=0, max_tokens=100)
    parsed = client.chat.completions.parse(**ask, response_format=City).choices[0].message.parsed
    expect(isinstance(parsed, City), "an answer that is what the schema says")
    with client.chat.completions.stream(**ask, response_format=City) as stream:
        expect(stream.get_final_completion().choices[0].message.parsed == parsed, "the same as a stream")
    response = client.responses.parse(model=MODEL, input="Name a city, as JSON.", temperature=0, max_output_tokens=100,
                                      text_format=City)
    expect(isinstance(response.output_parsed, City), "a response that is what the schema says")
    several = client.chat.completions.create(
        **{**ask, "temperature": 1.5}, n=4, seed=1,
        response_format={"type": "json_schema", "json_schema": {"name": "city", "strict": True, "schema": CITY}})
    for choice in several.choices:
        City.model_validate_json(choice.message.content)
    whole = client.chat.completions.create(**{**ask, "max_tokens": 400}, response_format={"type": "json_object"})
    begun = whole.choices[0].message.content
    expect(begun.lstrip().startswith("{"), f"an object: {begun!r}")
    if whole.choices[0].finish_reason == "stop":
        expect(isinstance(json.loads(begun), dict), f"an object: {begun!r}")
    number = client.chat.completions.create(**ask, extra_body={"guided_regex": "[0-9]{3}-[0-9]{4}"})
    expect(re.fullmatch("[0-9]{3}-[0-9]{4}", number.choices[0].message.content), "an expression")
    choice = client.chat.completions.create(**ask, extra_body={"guided_choice": ["red", "green"]})
    expect(choice.choices[0].message.content in ("red", "green"), "a choice")
    cut = client.chat.completions.create(**{**ask, "max_tokens": 2}, response_format={
        "type": "json_schema", "json_schema": {"name": "city", "schema": CITY}}).choices[0]
    expect(cut.finish_reason == "length", "an answer that is cut short says so")

    tools = [{"type": "function", "function": function} for function in (WEATHER, CLOCK)]
    question = {**ask, "messages": [{"role": "user", "content": "What time is it in Rome?"}]}
    for choice, names in [
        ("required", ("weather", "clock")),
        ({"type": "function", "function": {"name": "weather"}}, ("weather",)),
        ({"type": "function", "function": {"name": "clock"}}, ("clock",)),
    ]:
        answer = client.chat.completions.create(**question, tools=tools, tool_choice=choice).choices[0]
        call = answer.message.tool_calls[0].function
        expect(answer.finish_reason == "tool_calls" and call.name in names, f"{choice}: {call.name}")
        expect(called(call.name, json.loads(call.arguments)), f"{choice}: {call.arguments}")
        name, arguments = "", ""
        for chunk in client.chat.completions.create(**question, tools=tools, tool_choice=choice, stream=True):
            for delta in (chunk.choices[0].delta.tool_calls or []) if chunk.choices else []:
                if delta.index == 0:
                    name, arguments = name + (delta.function.name or ""), arguments + (delta.function.arguments or "")
        expect((name, arguments) == (call.name, call.arguments), f"the same call as a stream: {name} {arguments}")
    response = client.responses.create(model=MODEL, input="What time is it?", temperature=0, max_output_tokens=100,
                                       tools=[{"type": "function", **CLOCK}], tool_choice="required")
    call = [item for item in response.output if item.type == "function_call"][0]
    expect(called(call.name, json.loads(call.arguments)), "a call in a response")

    wrong = {"type": "json_schema", "json_schema": {"name": "wrong", "schema": {"type": "nothing"}}}
    refused(openai.BadRequestError, 400, lambda: client.chat.completions.create(**ask, response_format=wrong))
    refused(openai.BadRequestError, 400, lambda: client.chat.completions.create(**ask, extra_body={"guided_regex": "("}))
    refused(openai.BadRequestError, 400, lambda: client.chat.completions.create(**ask, tool_choice="required"))


def check_anthropic_constraints():
    client = anthropic.Anthropic(base_url=BASE, api_key="any", max_retries=0)
    tools = [{"name": tool["name"], "description": tool["description"], "input_schema": tool["parameters"]}
             for tool in (WEATHER, CLOCK)]
    ask = dict(model=MODEL, messages=[{"role": "user", "content": "What time is it in Rome?"}], max_tokens=100,
               extra_body={"temperature": 0}, tools=tools)
    for choice in ({"type": "any"}, {"type": "tool", "name": "weather"}, {"type": "tool", "name": "clock"}):
        message = client.messages.create(**ask, tool_choice=choice)
        use = [block for block in message.content if block.type == "tool_use"][0]
        expect(message.stop_reason == "tool_use" and use.name == choice.get("name", use.name), f"{choice}: {use.name}")
        expect(called(use.name, use.input), f"{choice}: {use.input}")
        with client.messages.stream(**ask, tool_choice=choice) as stream:
            streamed = [block for block in stream.get_final_message().content if block.type == "tool_use"][0]
        expect((streamed.name, streamed.input) == (use.name, use.input), "the same call as a stream")
    format = {"format": {"type": "json_schema", "schema": CITY}}
    message = client.messages.create(model=MODEL, messages=ABOUT_CITY, max_tokens=100, extra_body={"output_config": format})
    City.model_validate_json(message.content[0].text)


def is_city(text):
    """Whether a text is JSON of the schema, field by field and type by type."""
    try:
        City.model_validate_json(text, strict=True)
    except ValidationError:
        return False
    return True


def check_ollama_constraints():
    client = ollama.Client(host=BASE)
    options = {"temperature": 0, "num_predict": 100}
    ask = dict(model=MODEL, messages=ABOUT_CITY, options=options)
    expect(not is_city(client.chat(**ask).message.content), "the model does by itself what it is to be held to")
    # As pydantic writes the schema, and as people do.
    for schema in (City.model_json_schema(), CITY):
        answer = client.chat(**ask, format=schema)
        expect(is_city(answer.message.content), f"a chat that is what the schema says: {answer.message.content!r}")
        expect(answer.done and answer.done_reason == "stop", f"it ended by itself: {answer.done_reason}")
        pieces = list(client.chat(**ask, format=schema, stream=True))
        streamed = "".join(piece.message.content or "" for piece in pieces)
        expect(streamed == answer.message.content, f"the same as a stream: {streamed!r}")
        expect([piece.done for piece in pieces].index(True) == len(pieces) - 1, "the end comes last")
        answer = client.generate(model=MODEL, prompt="Name a city, as JSON.", format=schema, options=options)
        expect(is_city(answer.response), f"a text that is what the schema says: {answer.response!r}")
    # Also where the tokens are far from the likeliest ones.
    for seed in range(4):
        warm = {"temperature": 1.5, "num_predict": 100, "seed": seed}
        answer = client.chat(model=MODEL, messages=ABOUT_CITY, format=CITY, options=warm)
        expect(is_city(answer.message.content), f"with seed {seed}: {answer.message.content!r}")
    cut = client.chat(model=MODEL, messages=ABOUT_CITY, format=CITY, options={"temperature": 0, "num_predict": 2})
    expect(cut.done_reason == "length" and not is_city(cut.message.content), "an answer that is cut short says so")
    answer = client.generate(model=MODEL, prompt="Name a city, as JSON.", format="json", options={**options, "num_predict": 400})
    expect(answer.response.lstrip().startswith("{"), "an object")
    if answer.done_reason == "stop":
        expect(isinstance(json.loads(answer.response), dict), f"an object: {answer.response!r}")
    refused(ollama.ResponseError, 400, lambda: client.chat(**ask, format={"type": "nothing"}))


def check_together():
    """Answers do not depend on what else is asked at the same time."""
    questions = [f"What is {number} plus {number}?" for number in range(16)]

    async def answer(client, question):
        messages = [{"role": "user", "content": question}]
        stream = await client.chat.completions.create(
            model=MODEL, messages=messages, temperature=0, max_tokens=12, stream=True)
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices])

    async def answer_all():
        async with openai.AsyncOpenAI(base_url=BASE + "/v1", api_key="any", max_retries=0) as client:
            together = await asyncio.gather(*(answer(client, question) for question in questions))
            alone = [await answer(client, question) for question in questions]
        expect(together == alone, f"answers alone and together: {list(zip(alone, together))}")

    asyncio.run(answer_all())


def check_anthropic():
    client = anthropic.Anthropic(base_url=BASE, api_key="any", max_retries=0)
    # The client has no parameter for it any more.
    ask = dict(model=MODEL, messages=MESSAGES, max_tokens=16, extra_body={"temperature": 0})
    message = client.messages.create(**ask)
    text = message.content[0].text
    expect(text and message.stop_reason in ("end_turn", "max_tokens"), "a message")
    with client.messages.stream(**ask) as stream:
        expect("".join(stream.text_stream) == text, "a stream")
        expect(stream.get_final_message().usage.output_tokens == message.usage.output_tokens, "usage of the stream")
    counted = client.messages.count_tokens(model=MODEL, messages=MESSAGES).input_tokens
    usage = message.usage
    expect(counted == usage.input_tokens + usage.cache_read_input_tokens, "tokens are counted")
    tool = {"name": TOOL["name"], "description": TOOL["description"], "input_schema": TOOL["parameters"]}
    expect(client.messages.create(**ask, tools=[tool]).content is not None, "tools are taken")
    use = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Rome"}}
    result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "Sunny."}
    history = [*MESSAGES, {"role": "assistant", "content": [use]}, {"role": "user", "content": [result]}]
    told = client.messages.create(**{**ask, "messages": history}, tools=[tool])
    expect(told.stop_reason, "the result of a call is read")
    refused(anthropic.NotFoundError, 404, lambda: client.messages.create(**{**ask, "model": "nobody"}))
    refused(anthropic.BadRequestError, 400, lambda: client.messages.create(**{**ask, "max_tokens": -1}))


def check_ollama():
    client = ollama.Client(host=BASE)
    expect(any(model.model == MODEL for model in client.list().models), "the model is listed")
    expect(client.show(MODEL).capabilities[0] == "completion", "the model is shown")
    options = {"temperature": 0, "num_predict": 16}
    whole = client.chat(model=MODEL, messages=MESSAGES, options=options)
    parts = list(client.chat(model=MODEL, messages=MESSAGES, options=options, stream=True))
    expect("".join(part.message.content for part in parts) == whole.message.content, "a stream")
    expect(parts[-1].done and parts[-1].eval_count == whole.eval_count, "the end of a stream")
    expect(client.generate(model=MODEL, prompt="Say hello.", options=options).response == whole.message.content, "a prompt")
    call = {"function": {"name": "weather", "arguments": {"city": "Rome"}}}
    history = [*MESSAGES, {"role": "assistant", "content": "", "tool_calls": [call]},
               {"role": "tool", "tool_name": "weather", "content": "Sunny."}]
    tool = {"type": "function", "function": TOOL}
    told = client.chat(model=MODEL, messages=history, tools=[tool], options=options)
    expect(told.done, "the result of a call is read")
    expect(len(client.embed(model=MODEL, input=["one", "two"]).embeddings) == 2, "vectors")
    expect(any(model.model == MODEL for model in client.ps().models), "the model is in memory")
    refused(ollama.ResponseError, 404, lambda: client.chat(model="nobody", messages=MESSAGES))
    refused(ollama.ResponseError, 400, lambda: client.chat(model=MODEL, messages=MESSAGES, options={"temperature": -1}))


check_openai()
check_openai_constraints()
check_together()
check_anthropic()
check_anthropic_constraints()
check_ollama()
check_ollama_constraints()
print("all clients are content")
