"""Hooks of Schemathesis: what a schema cannot say about requests.

Requests that are made to be right are put right where the parts of one must suit each other or the model.
All requests name a model that is there, so that more than the name is looked at.
"""

import re

import schemathesis

MODEL, VOCABULARY, WIDTH, CONTEXT = "tested", 49152, 576, 2048
SLOTS = 32
# Of a list.
FEW = 4
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False}
# Ways to say what an answer must be, and one that can be compiled.
CONSTRAINTS = {
    "guided_json": SCHEMA, "guided_regex": "[ab]{3}", "guided_grammar": 'start: "a" | "b"', "guided_choice": ["a", "b"],
    "structured_outputs": {"json": SCHEMA}, "json_schema": SCHEMA, "grammar": 'root ::= "a" | "b"', "format": SCHEMA,
    "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}},
}


@schemathesis.hook
def before_call(context, case, kwargs):
    body = case.body
    mode = case.meta.generation.mode if case.meta else None
    positive = mode is not None and mode.value == "positive"
    if positive and case.path == "/slots/{id}":
        put_slot_right(case)
    if not isinstance(body, dict):
        return
    name = body.get("model")
    known = isinstance(name, str) and (positive or re.fullmatch("[!-~]{1,256}", name))
    if known and case.path not in ("/api/pull", "/api/delete"):
        body["model"] = MODEL
    if positive:
        put_right(case.path, body)


def put_slot_right(case):
    # There are so many, and a file, where one is read or written, has a name that systems take.
    case.path_parameters["id"] = int(case.path_parameters["id"]) % SLOTS
    body = case.body if isinstance(case.body, dict) else {}
    body["filename"] = "a"
    # To be erased, none needs one.
    if (case.query or {}).get("action") == "erase":
        del body["filename"]
    case.body = body


def put_right(path, body):
    # All of it fits into the context.
    for field in ("tools", "messages", "input", "prompt", "content"):
        if isinstance(body.get(field), (list, str)):
            body[field] = body[field][:FEW if isinstance(body[field], list) else FEW * 100]
    # Names of functions differ from each other, and the one to be called is among them.
    names = []
    for tool in body.get("tools") or []:
        tool = tool.get("function") or tool
        while tool["name"] in names:
            tool["name"] = f"{tool['name'][:100]}{len(names)}"
        names.append(tool["name"])
    if not names:
        body.pop("tool_choice", None)
    choice = body.get("tool_choice")
    if isinstance(choice, dict):
        function = choice.get("function") or choice
        if "name" in function:
            function["name"] = names[0]
    # Where a function must be called, its schema can be compiled.
    forced = choice not in (None, "auto", "none") and choice not in ({"type": "auto"}, {"type": "none"})
    for tool in body.get("tools") or []:
        tool = tool.get("function") or tool
        for field in ("parameters", "input_schema"):
            if forced and field in tool:
                tool[field] = SCHEMA
    # Thoughts alone say nothing.
    if isinstance(body.get("input"), list) and all(isinstance(item, dict) and item.get("type") == "reasoning" for item in body["input"]):
        body["input"].append({"role": "user", "content": "a"})
    # Arguments of earlier calls are JSON in a string.
    for item in [*(body.get("messages") or []), *(body["input"] if isinstance(body.get("input"), list) else [])]:
        if not isinstance(item, dict):
            continue
        if isinstance(item.get("arguments"), str):
            item["arguments"] = "{}"
        for call in item.get("tool_calls") or []:
            if isinstance(call["function"].get("arguments"), str):
                call["function"]["arguments"] = "{}"
    # Tokens are those of the model, and so is the length of its vectors.
    for field in ("prompt", "input", "content", "tokens"):
        body[field] = known_tokens(body[field]) if field in body else None
        if body[field] is None:
            del body[field]
    if isinstance(body.get("logit_bias"), list):
        body["logit_bias"] = [[index, False] for index, _ in enumerate(body["logit_bias"])]
    elif body.get("logit_bias"):
        body["logit_bias"] = {str(int(key) % VOCABULARY): value for key, value in body["logit_bias"].items()}
    # At most one thing says what the answer must be, and can be compiled.
    free = not forced
    for field, sound in CONSTRAINTS.items():
        if says_something(body.get(field)):
            body[field] = sound if free else None
            free = False
    for holder, sound in ((body.get("text"), {"type": "json_schema", "name": "a", "schema": SCHEMA}),
                          (body.get("output_config"), {"type": "json_schema", "schema": SCHEMA})):
        if isinstance(holder, dict) and says_something(holder.get("format")):
            holder["format"] = sound if free else None
    if body.get("id_slot") is not None:
        body["id_slot"] = int(body["id_slot"]) % SLOTS
    if body.get("dimensions") is not None:
        body["dimensions"] = WIDTH
    options = body.get("options") or {}
    if options.get("num_ctx") is not None:
        options["num_ctx"] = min(options["num_ctx"], CONTEXT)
    # Numbers that depend on others.
    if body.get("min_tokens") is not None:
        body["min_tokens"] = 0
    if body.get("best_of") is not None:
        body["best_of"] = body.get("n") or 1
    several = isinstance(body.get("prompt"), list) and not all(isinstance(item, int) for item in body["prompt"])
    if several:
        body["n"] = body["best_of"] = 1
        if path in ("/completion", "/completions"):
            body["stream"] = False
            del body["n"], body["best_of"]


def says_something(constraint):
    return constraint is not None and not (isinstance(constraint, dict) and constraint.get("type") == "text")


def known_tokens(value):
    if isinstance(value, list):
        return [known_tokens(item) for item in value]
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return int(value) % VOCABULARY
    # Some characters are nothing in the model's tokens.
    if isinstance(value, str) and not re.search("[!-~]", value):
        return "a" + value
    return value
