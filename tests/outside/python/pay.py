"""A payer made of PyPI x402, unmodified, driven one step at a time.

It takes the same configuration and the same steps as js/pay.mjs and prints the same lines, so that one table of tests
runs over both; tests/outside/README.md describes them.
"""

from __future__ import annotations

import asyncio
import copy
import json
import sys
from typing import Any

import httpx
from eth_account import Account
from x402 import x402Client
from x402.extensions.payment_identifier import append_payment_identifier_to_extensions
from x402.http.clients import x402_httpx_transport
from x402.http.utils import decode_payment_signature_header, safe_base64_decode
from x402.mechanisms.evm.batch_settlement.client import (
    BatchSettlementEvmScheme,
    BatchSettlementEvmSchemeOptions,
    InMemoryClientChannelStorage,
    RefundOptions,
)
from x402.mechanisms.evm.batch_settlement.client.file_storage import (
    FileChannelStorageOptions,
    FileClientChannelStorage,
)
from x402.mechanisms.evm.batch_settlement.client.refund import _RefundResponse
from x402.mechanisms.evm.exact import ExactEvmScheme
from x402.mechanisms.evm.signers import EthAccountSigner, EthAccountSignerWithRPC


def emit(value: dict[str, Any]) -> None:
    print(json.dumps(value), flush=True)


class WatchedSigner(EthAccountSignerWithRPC):
    """The SDK's signer that can read the chain, counting what it reads."""

    reads = 0

    def read_contract(self, *call: Any) -> Any:
        WatchedSigner.reads += 1
        return super().read_contract(*call)


class WatchedStorage:
    """The client's own storage, seen through: the SDK reads and writes it, the test looks, saves and restores."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.last: str | None = None
        self.saved: dict[str, Any] = {}

    def get(self, key: str) -> Any:
        self.last = key
        return self.inner.get(key)

    def set(self, key: str, context: Any) -> None:
        self.last = key
        self.inner.set(key, context)

    def delete(self, key: str) -> None:
        self.last = key
        self.inner.delete(key)

    def view(self) -> dict[str, Any] | None:
        if self.last is None:
            return None
        record = self.inner.get(self.last)
        return {"channelId": self.last, **(record.to_dict() if record else {})}

    def save(self, name: str) -> None:
        self.saved[name] = copy.deepcopy(self.inner.get(self.last))

    def restore(self, name: str) -> None:
        record = self.saved[name]
        if record is None:
            self.inner.delete(self.last)
        else:
            self.inner.set(self.last, copy.deepcopy(record))


def summary(header: str) -> dict[str, Any]:
    payment = decode_payment_signature_header(header)
    payload = payment.payload
    found = {
        "scheme": payment.accepted.scheme,
        "type": payload.get("type", "authorization"),
        "maxClaimableAmount": payload.get("voucher", {}).get("maxClaimableAmount"),
        "deposit": payload.get("deposit", {}).get("amount"),
        "amount": payload.get("amount") or payload.get("authorization", {}).get("value"),
        "paymentId": ((payment.extensions or {}).get("payment-identifier", {}).get("info", {}).get("id")),
    }
    return {key: value for key, value in found.items() if value is not None}


def note(log: list[dict[str, Any]], method: str, request_headers: Any, status: int, headers: Any) -> None:
    """Keeps what one request was paid with, and what came back."""
    header = request_headers.get("PAYMENT-SIGNATURE")
    entry: dict[str, Any] = {"method": method, "sent": summary(header) if header else None, "status": status}
    for name, key in (("PAYMENT-REQUIRED", "required"), ("PAYMENT-RESPONSE", "response")):
        if headers.get(name):
            entry[key] = json.loads(safe_base64_decode(headers[name]))
    log.append(entry)


def trace(log: list[dict[str, Any]]) -> dict[str, Any]:
    last = log[-1] if log else {}
    return {
        "requests": len(log),
        "sent": [entry["sent"] for entry in log],
        "statuses": [entry["status"] for entry in log],
        "errors": [entry.get("required", {}).get("error") for entry in log],
        "response": last.get("response"),
        "required": last.get("required") if last.get("status") == 402 else None,
    }


class WatchedTransport(httpx.AsyncBaseTransport):
    def __init__(self, log: list[dict[str, Any]]) -> None:
        self.inner = httpx.AsyncHTTPTransport()
        self.log = log

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        response = await self.inner.handle_async_request(request)
        note(self.log, request.method, request.headers, response.status_code, response.headers)
        return response

    async def aclose(self) -> None:
        await self.inner.aclose()


class Payer:
    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config
        self.account = Account.from_key(config["key"])
        inner = (
            FileClientChannelStorage(FileChannelStorageOptions(directory=config["directory"]))
            if config.get("directory")
            else InMemoryClientChannelStorage()
        )
        self.storage = WatchedStorage(inner)
        options: dict[str, Any] = {"storage": self.storage}
        if config.get("salt"):
            options["salt"] = config["salt"]
        if config.get("voucherKey"):
            options["voucher_signer"] = EthAccountSigner(Account.from_key(config["voucherKey"]))
        self.scheme = BatchSettlementEvmScheme(self.signer(), BatchSettlementEvmSchemeOptions(**options))

    def signer(self) -> Any:
        if self.config.get("rpc"):
            return WatchedSigner(self.account, self.config["rpc"])
        return self.account

    def client(self, payment_id: str | None) -> x402Client:
        network = self.config.get("network", "eip155:*")
        schemes = self.config.get("schemes", ["batch-settlement"])
        made = x402Client()
        if "batch-settlement" in schemes:
            made.register(network, self.scheme)
        if "exact" in schemes:
            made.register(network, ExactEvmScheme(self.signer()))
        made.set_spend_controls(self.spend_controls())
        if payment_id:

            def add_identifier(context: Any) -> None:
                if context.payment_required.extensions:
                    append_payment_identifier_to_extensions(context.payment_required.extensions, payment_id)

            made.on_before_payment_creation(add_identifier)
        return made

    def spend_controls(self) -> Any:
        """The JavaScript names of the configuration, in Python's spelling."""
        controls = self.config.get("spendControls", {"allowedAssets": True})
        if not isinstance(controls, dict):
            return controls
        names = {"allowedAssets": "allowed_assets", "maxAmountPerPayment": "max_amount_per_payment"}

        def rename(entry: Any) -> Any:
            return {names.get(k, k): v for k, v in entry.items()} if isinstance(entry, dict) else entry

        spelled = rename(controls)
        if isinstance(spelled.get("allowed_assets"), list):
            spelled["allowed_assets"] = [rename(entry) for entry in spelled["allowed_assets"]]
        return spelled

    async def request(self, step: dict[str, Any]) -> dict[str, Any]:
        log: list[dict[str, Any]] = []
        outcome: dict[str, Any] = {}
        body = step.get("body")
        method = step.get("method") or ("GET" if body is None else "POST")
        headers = dict(step.get("headers", {}))
        if body is not None:
            headers.setdefault("content-type", "application/json")
            body = body if isinstance(body, str) else json.dumps(body)
        transport = x402_httpx_transport(self.client(step.get("paymentId")), WatchedTransport(log))
        try:
            async with httpx.AsyncClient(transport=transport, timeout=60) as http:
                async with http.stream(method, step["url"], headers=headers, content=body) as response:
                    outcome["status"] = response.status_code
                    outcome["body"] = await self.read(step, response)
        except Exception as error:  # what the caller of the SDK would have seen
            outcome["error"] = str(error)
        return {**outcome, **trace(log)}

    async def read(self, step: dict[str, Any], response: httpx.Response) -> str:
        """Reads the body; of a stream it says, when its first bytes are here, that they are."""
        text = ""
        async for chunk in response.aiter_text():
            if step["do"] == "stream" and text == "" and chunk:
                emit({"step": self.number, "do": "stream", "first": chunk})
            text += chunk
        return text

    def refund(self, step: dict[str, Any]) -> dict[str, Any]:
        log: list[dict[str, Any]] = []
        outcome: dict[str, Any] = {}

        def fetch(url: str, headers: dict[str, str]) -> _RefundResponse:
            response = httpx.get(url, headers=headers, timeout=30)
            note(log, "GET", headers, response.status_code, response.headers)
            return _RefundResponse(status=response.status_code, headers=dict(response.headers))

        try:
            options = RefundOptions(amount=step.get("amount"), fetch=fetch)
            outcome["refund"] = self.scheme.refund(step["url"], options).model_dump(by_alias=True, exclude_none=True)
        except Exception as error:  # what the caller of the SDK would have seen
            outcome["error"] = str(error)
        return {**outcome, **trace(log)}

    async def perform(self, step: dict[str, Any]) -> dict[str, Any]:
        match step["do"]:
            case "call" | "stream":
                return await self.request(step)
            case "parallel":
                calls = await asyncio.gather(*(self.request(step) for _ in range(step["n"])))
                return {"calls": calls}
            case "refund":
                return await asyncio.to_thread(self.refund, step)
            case "forget":
                self.storage.save("forgotten")
                self.storage.delete(self.storage.last)
            case "save":
                self.storage.save(step["name"])
            case "restore":
                self.storage.restore(step["name"])
            case other:
                raise ValueError(f"unknown step: {other}")
        return {}

    async def run(self) -> None:
        emit({"ready": self.account.address})
        self.number = 0
        while line := await asyncio.to_thread(sys.stdin.readline):
            if not line.strip():
                continue
            step = json.loads(line)
            self.number += 1
            before = WatchedSigner.reads
            result = await self.perform(step)
            reads = WatchedSigner.reads - before
            view = self.storage.view()
            emit({"step": self.number, "do": step["do"], **result, "chainReads": reads, "channel": view, "done": True})


def configuration() -> dict[str, Any]:
    if len(sys.argv) != 2:
        sys.exit("usage: python pay.py '{json}' | @file.json")
    argument = sys.argv[1]
    if argument.startswith("@"):
        with open(argument[1:], encoding="utf-8") as file:
            return json.load(file)
    return json.loads(argument)


if __name__ == "__main__":
    asyncio.run(Payer(configuration()).run())
