"""Asks models that are sold: PyPI openai, unmodified, over PyPI x402's transport for httpx, unmodified too.

Configuration and output are those of js/buy.mjs.
"""

import asyncio
import json
import sys

import httpx
import openai
from eth_account import Account
from x402 import x402Client
from x402.http.clients import x402_httpx_transport
from x402.http.utils import decode_payment_signature_header, safe_base64_decode
from x402.mechanisms.evm.batch_settlement.client import BatchSettlementEvmScheme, BatchSettlementEvmSchemeOptions

CONFIG = json.loads(sys.argv[1])
TALK = {"model": CONFIG["model"], "messages": [{"role": "user", "content": "What is a hearth?"}], "max_tokens": 16}
STORY = {**TALK, "messages": [{"role": "user", "content": "Tell me a long story."}], "max_tokens": 400}
LOG = []


class WatchedTransport(httpx.AsyncHTTPTransport):
    """Notes each request: what was paid with, and what came back."""

    async def handle_async_request(self, request):
        response = await super().handle_async_request(request)
        header = request.headers.get("PAYMENT-SIGNATURE")
        settled = response.headers.get("PAYMENT-RESPONSE")
        LOG.append({
            "sent": decode_payment_signature_header(header).payload["type"] if header else None,
            "status": response.status_code,
            "stated": json.loads(safe_base64_decode(settled))["extra"]["chargedAmount"] if settled else None,
        })
        return response


def report(check, **value):
    print(json.dumps({"check": check, "value": {**value, "requests": list(LOG)}}), flush=True)
    LOG.clear()


def count(usage):
    return [usage.prompt_tokens, usage.completion_tokens]


async def whole(client, check):
    answer = await client.chat.completions.create(**TALK)
    report(check, text=answer.choices[0].message.content, tokens=count(answer.usage))


async def with_openai(client):
    await whole(client, "whole")
    await whole(client, "again")
    together = await asyncio.gather(*(client.chat.completions.create(**TALK) for _ in range(3)))
    report("together", tokens=[count(answer.usage) for answer in together])
    text = ""
    async for chunk in await client.chat.completions.create(**TALK, stream=True, stream_options={"include_usage": True}):
        text += (chunk.choices[0].delta.content or "") if chunk.choices else ""
        usage = chunk.usage
    report("stream", text=text, tokens=count(usage))
    pieces = 0
    async with await client.chat.completions.create(**STORY, stream=True) as stream:
        async for chunk in stream:
            if chunk.choices and chunk.choices[0].delta.content:
                pieces += 1
            if pieces == 3:
                break
    report("left", pieces=pieces)
    await whole(client, "after")
    try:
        await client.chat.completions.create(**{**TALK, "model": "nobody"})
    except openai.NotFoundError as error:
        report("no model", code=error.code, status=error.status_code)


async def main():
    options = BatchSettlementEvmSchemeOptions(salt=CONFIG["salt"])
    client = x402Client()
    client.register(CONFIG["network"], BatchSettlementEvmScheme(Account.from_key(CONFIG["key"]), options))
    client.set_spend_controls({"allowed_assets": True})
    transport = x402_httpx_transport(client, WatchedTransport())
    async with httpx.AsyncClient(transport=transport, timeout=60) as http:
        node = {"base_url": f"{CONFIG['url']}/v1", "api_key": "none", "http_client": http, "max_retries": 0}
        await with_openai(openai.AsyncOpenAI(**node))


asyncio.run(main())
