"""Asks a node through unmodified SDKs: openai, anthropic, litellm, langchain-openai.

One JSON argument: {"url", "key", "models": {"talk", "call", "json", "breaks", "none", "embed"}, "most"?}; `most` is the
most tokens of an answer, for models that would otherwise talk on. Prints one JSON line for each check: {"check",
"value"}. A check that raises what it should not ends the program.
"""

import json
import os
import sys

import anthropic
import openai

CONFIG = json.loads(sys.argv[1])
URL, KEY, MODELS = CONFIG["url"], CONFIG["key"], CONFIG["models"]
HELLO = [{"role": "user", "content": "one two three"}]
MOST = CONFIG.get("most")
MOST_TOKENS = {"max_tokens": MOST} if MOST else {}
CITY = {"type": "string", "enum": ["Paris", "Rome"]}
PARAMETERS = {"type": "object", "properties": {"city": CITY}, "required": ["city"], "additionalProperties": False}
TOOLS = [{"type": "function", "function": {"name": "weather", "description": "tells it", "parameters": PARAMETERS}}]


def emit(check, value):
    print(json.dumps({"check": check, "value": value}), flush=True)


def with_openai():
    client = openai.OpenAI(base_url=f"{URL}/v1", api_key=KEY, max_retries=0)
    emit("openai models", [model.id for model in client.models.list()])
    whole = client.chat.completions.create(model=MODELS["talk"], messages=HELLO, seed=7, **MOST_TOKENS)
    emit("openai whole", [whole.choices[0].message.content, whole.choices[0].finish_reason, whole.usage.completion_tokens])
    emit("openai note", whole.model_extra["hearth"]["source"])
    chunks = list(client.chat.completions.create(
        model=MODELS["talk"], messages=HELLO, seed=7, stream=True, stream_options={"include_usage": True},
        **MOST_TOKENS))
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    emit("openai stream", [text, chunks[-1].usage.completion_tokens])
    told = client.chat.completions.create(
        model=MODELS["talk"], messages=HELLO, logprobs=True, top_logprobs=2, **MOST_TOKENS)
    tokens = told.choices[0].logprobs.content
    emit("openai logprobs", [
        len(tokens) == told.usage.completion_tokens, all(token.logprob <= 0 for token in tokens),
        {len(token.top_logprobs) for token in tokens} == {2}])
    called = client.chat.completions.create(
        model=MODELS["call"], messages=HELLO, tools=TOOLS, tool_choice="required")
    call = called.choices[0].message.tool_calls[0]
    emit("openai tools", [call.function.name, sorted(json.loads(call.function.arguments))])
    with client.chat.completions.stream(
            model=MODELS["call"], messages=HELLO, tools=TOOLS, tool_choice="required") as stream:
        final = stream.get_final_completion()
    emit("openai tools in a stream", final.choices[0].message.tool_calls[0].function.name)
    schema = {"name": "place", "strict": True, "schema": PARAMETERS}
    formed = client.chat.completions.create(
        model=MODELS["json"], messages=HELLO, response_format={"type": "json_schema", "json_schema": schema})
    emit("openai schema", "city" in json.loads(formed.choices[0].message.content))
    most_output = {"max_output_tokens": MOST} if MOST else {}
    response = client.responses.create(model=MODELS["talk"], input="one two three", **most_output)
    emit("openai response", [response.output_text, response.status])
    with client.responses.stream(model=MODELS["talk"], input="one two three", **most_output) as stream:
        deltas = [event.delta for event in stream if event.type == "response.output_text.delta"]
        # The SDK knows no final response where the answer was cut at its most tokens.
        final = "".join(deltas) if MOST else stream.get_final_response().output_text
        emit("openai response stream", final)
    emit("openai completion", client.completions.create(model=MODELS["talk"], prompt="one two").choices[0].text)
    if MODELS.get("embed"):
        embedded = client.embeddings.create(model=MODELS["embed"], input=["a b", "c"])
        emit("openai embeddings", [len(embedded.data), embedded.data[0].embedding[:1]])
    openai_errors(client)


def openai_errors(client):
    try:
        client.chat.completions.create(model=MODELS["none"], messages=HELLO)
    except openai.NotFoundError as error:
        emit("openai no model", error.code)
    try:
        client.chat.completions.create(model=MODELS["talk"], messages=HELLO, temperature=9)
    except openai.BadRequestError as error:
        emit("openai bad request", error.param)
    try:
        client.with_options(api_key="hearth-wrong").models.list()
    except openai.AuthenticationError as error:
        emit("openai wrong key", error.code)
    if not MODELS.get("breaks"):
        return
    text = ""
    try:
        for chunk in client.chat.completions.create(model=MODELS["breaks"], messages=HELLO, stream=True):
            text += chunk.choices[0].delta.content or ""
    except openai.APIError as error:
        emit("openai broken stream", [text, error.code])
    try:
        for _ in client.responses.create(model=MODELS["breaks"], input="hello", stream=True):
            pass
    except openai.APIError as error:
        emit("openai broken response", error.code)


def with_anthropic():
    client = anthropic.Anthropic(base_url=URL, api_key=KEY, max_retries=0)
    whole = client.messages.create(model=MODELS["talk"], max_tokens=MOST or 64, messages=HELLO, system="Be brief.")
    emit("anthropic whole", [whole.content[0].text, whole.stop_reason, whole.usage.output_tokens])
    with client.messages.stream(model=MODELS["talk"], max_tokens=MOST or 64, messages=HELLO) as stream:
        text = "".join(stream.text_stream)
        emit("anthropic stream", [text, stream.get_final_message().stop_reason])
    tools = [{"name": "weather", "description": "tells it", "input_schema": PARAMETERS}]
    called = client.messages.create(
        model=MODELS["call"], max_tokens=128, messages=HELLO, tools=tools, tool_choice={"type": "any"})
    call = next(block for block in called.content if block.type == "tool_use")
    emit("anthropic tools", [call.name, sorted(call.input), called.stop_reason])
    with client.messages.stream(
            model=MODELS["call"], max_tokens=128, messages=HELLO, tools=tools, tool_choice={"type": "any"}) as stream:
        final = stream.get_final_message()
    emit("anthropic tools in a stream", sorted(next(b for b in final.content if b.type == "tool_use").input))
    count = client.messages.count_tokens(model=MODELS["talk"], messages=HELLO)
    emit("anthropic count", count.input_tokens)
    try:
        client.messages.create(model=MODELS["none"], max_tokens=9, messages=HELLO)
    except anthropic.NotFoundError as error:
        emit("anthropic no model", error.body["error"]["type"])
    if MODELS.get("breaks"):
        text = ""
        try:
            with client.messages.stream(model=MODELS["breaks"], max_tokens=9, messages=HELLO) as stream:
                for piece in stream.text_stream:
                    text += piece
        except anthropic.APIStatusError as error:
            emit("anthropic broken stream", [text, error.body["error"]["type"]])


def with_litellm():
    # It would ask for its price list on the internet.
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
    import litellm

    options = {"api_base": f"{URL}/v1", "api_key": KEY, "messages": HELLO, "num_retries": 0}
    whole = litellm.completion(model=f"openai/{MODELS['talk']}", **options, **MOST_TOKENS)
    emit("litellm whole", whole.choices[0].message.content)
    chunks = litellm.completion(model=f"openai/{MODELS['talk']}", stream=True, **options, **MOST_TOKENS)
    emit("litellm stream", "".join(chunk.choices[0].delta.content or "" for chunk in chunks))
    called = litellm.completion(model=f"openai/{MODELS['call']}", tools=TOOLS, tool_choice="required", **options)
    emit("litellm tools", called.choices[0].message.tool_calls[0].function.name)
    try:
        litellm.completion(model=f"openai/{MODELS['none']}", **options)
    except litellm.NotFoundError:
        emit("litellm no model", True)


def with_langchain():
    from langchain_openai import ChatOpenAI, OpenAIEmbeddings

    options = {"base_url": f"{URL}/v1", "api_key": KEY, "max_retries": 0}
    model = ChatOpenAI(model=MODELS["talk"], **options, **MOST_TOKENS)
    emit("langchain whole", model.invoke("one two three").content)
    emit("langchain stream", "".join(chunk.content for chunk in model.stream("one two three")))
    caller = ChatOpenAI(model=MODELS["call"], **options).bind_tools(TOOLS, tool_choice="weather")
    emit("langchain tools", caller.invoke("one two three").tool_calls[0]["name"])
    schema = {"title": "place", **PARAMETERS}
    poet = ChatOpenAI(model=MODELS["json"], **options).with_structured_output(schema, method="json_schema")
    emit("langchain schema", "city" in poet.invoke("one two three"))
    if MODELS.get("embed"):
        embeddings = OpenAIEmbeddings(model=MODELS["embed"], check_embedding_ctx_length=False, **options)
        emit("langchain embeddings", len(embeddings.embed_documents(["a b", "c"])))


with_openai()
with_anthropic()
with_litellm()
with_langchain()
