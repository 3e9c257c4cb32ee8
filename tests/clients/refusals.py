"""How each door of the server says no: a WebSocket by an `error` envelope and its close, HTTP by a problem document."""

from dataclasses import dataclass, field

import httpx

from documents import definition, hold
from edge import Edge
from transports import bearer, messages_of, presence_of, raw_websocket

HTTP_DOORS = ["sse", "poll", "send", "history", "publish", "presence", "tickets"]
DOORS = ["ws", *HTTP_DOORS]

STATUS_OF_CODE = {4001: 401, 4002: 401, 4003: 403, 4004: 429, 4005: 413, 1012: 503, 1013: 503}


@dataclass
class Refusal:
    """What a client is told."""

    payload: dict
    headers: httpx.Headers = field(default_factory=httpx.Headers)

    @property
    def code(self) -> int:
        return self.payload["code"]

    @property
    def reason(self) -> str:
        return self.payload["reason"]


def request_of(door: str, room: str) -> tuple[str, str, dict]:
    """A request that would succeed with everything granted: method, path, and more for httpx."""
    envelope = {"type": "message", "payload": {"channel": room, "data": 1}, "metadata": {"correlation_id": "c"}}
    return {
        "sse": ("GET", "/v1/sse", {"params": {"channels": room}}),
        "poll": ("GET", "/v1/poll", {"params": {"channels": room}}),
        "send": ("POST", "/v1/send", {"json": envelope}),
        "history": ("GET", messages_of(room), {}),
        "publish": ("POST", messages_of(room), {"json": 1}),
        "presence": ("GET", presence_of(room), {}),
        "tickets": ("POST", "/v1/tickets", {}),
    }[door]


async def refusal(
    edge: Edge,
    door: str,
    token: str | None = None,
    *,
    room: str = "chat:door",
    query: dict | None = None,
    headers: dict | None = None,
) -> Refusal:
    """Knocks at that door and is refused, in the form that the door owes."""
    headers = bearer(token) | (headers or {})
    if door == "ws":
        return await refused_handshake(edge, query=query or "", headers=headers)
    method, path, options = request_of(door, room)
    options["params"] = options.get("params", {}) | (query or {})
    async with edge.http() as client:
        return problem(await client.request(method, path, headers=headers, **options))


async def refused_handshake(edge: Edge, **options) -> Refusal:
    """The handshake is accepted, answered with one `error` and closed with the same code: a page sees no more."""
    async with raw_websocket(edge, **options) as socket:
        code, reason = await socket.closed()
        types = [envelope.type for envelope in socket.early]
        assert types == ["error"], f"{types}, then close {code} {reason}"
        payload = socket.early[0].payload
        assert (code, reason) == (payload["code"], payload["reason"])
        return Refusal(payload, socket.connection.response.headers)


def problem(response: httpx.Response) -> Refusal:
    """RFC 9457, with the `error` payload's fields beside `title` and `status`."""
    assert response.headers.get("Content-Type", "").startswith("application/problem+json"), (
        response.status_code,
        response.headers,
        response.text,
    )
    body = response.json()
    hold(definition("Problem"), body, "a problem")
    assert body["status"] == response.status_code
    expected = STATUS_OF_CODE.get(body["code"])
    assert expected in (None, response.status_code), body
    if response.status_code == 401:
        # RFC 9110 §15.5.2
        assert response.headers["WWW-Authenticate"].startswith("Bearer"), response.headers
    if response.status_code == 429:
        assert int(response.headers["Retry-After"]) * 1000 >= body["retry_after_ms"], (response.headers, body)
    return Refusal(body, response.headers)
