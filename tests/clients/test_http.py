"""HTTP as such: methods, paths, versions, heads, and the shape of what goes wrong."""

import asyncio
import json
import re
import ssl

import httpx
import pytest

from documents import Exchange, check_exchange
from refusals import HTTP_DOORS, problem, request_of
from transports import bearer, event_stream, messages_of, poller, publish, websocket
from wire import Envelope

METHODS = {
    "/v1/ws": {"GET"},
    "/v1/sse": {"GET"},
    "/v1/poll": {"GET"},
    "/v1/send": {"POST"},
    "/v1/channels/a/messages": {"GET", "POST"},
    "/v1/channels/a/presence": {"GET"},
    "/v1/tickets": {"POST"},
}


@pytest.mark.parametrize(
    "path",
    ["/v1", "/v1/", "/v2/ws", "/v1/nothing", "/v1/ws/", "/v1/channels", "/v1/channels/a", "/v1/channels/a/b/c", "/V1/poll",
     "/v1//poll", "/echo", "/metrics", "/livez", "/readyz", "/", "/demo", "/demo/page.js", "/demo/token"],
)  # fmt: skip
async def test_what_is_not_there_is_404(edge, path):
    async with edge.http() as client:
        for method in ("GET", "POST"):
            answer = await client.request(method, path, headers=bearer(edge.token()))
            assert (answer.status_code, problem(answer).code) == (404, 4000)


@pytest.mark.parametrize("path", METHODS)
async def test_another_method_is_405_with_those_that_are_allowed(edge, path):
    async with edge.http() as client:
        for method in {"GET", "POST", "PUT", "PATCH", "DELETE", "FROB"} - METHODS[path]:
            answer = await client.request(method, path, headers=bearer(edge.token()))
            assert (answer.status_code, problem(answer).code) == (405, 4000), method
            allowed = {name.strip() for name in answer.headers["Allow"].split(",")}
            assert METHODS[path] <= allowed, "RFC 9110 §10.2.1"
            assert method not in allowed


@pytest.mark.parametrize("path", METHODS)
async def test_options_tells_the_methods(edge, path):
    async with edge.http() as client:
        answer = await client.options(path)
        assert answer.status_code in (200, 204)
        assert METHODS[path] <= {name.strip() for name in answer.headers["Allow"].split(",")}


@pytest.mark.parametrize("path", ["/v1/channels/a/messages", "/v1/channels/a/presence", "/v1/nothing"])
@pytest.mark.parametrize("http2", [False, True])
async def test_head_is_get_without_a_body(edge, path, http2):
    """RFC 9110 §9.3.2."""
    async with edge.http(http2=http2) as client:
        headers = bearer(edge.token())
        head = await client.head(path, headers=headers)
        get = await client.get(path, headers=headers)
        assert head.content == b""
        assert head.status_code == get.status_code
        assert head.headers["Content-Type"] == get.headers["Content-Type"]


@pytest.mark.parametrize("path", ["/v1/sse", "/v1/poll"])
async def test_head_of_what_lasts_does_not_hang(edge, room, path):
    """A subscription without a body has no use: it may as well be refused."""
    async with edge.http() as client:
        head = await client.head(path, params={"channels": room}, headers=bearer(edge.token()))
        assert head.status_code in (200, 405)
        assert head.content == b""


@pytest.mark.parametrize("door", HTTP_DOORS)
@pytest.mark.parametrize("http2", [False, True])
async def test_every_endpoint_works_over_both_versions(edge, room, door, http2):
    method, path, options = request_of(door, room)
    async with (
        edge.http(http2=http2) as client,
        client.stream(method, path, headers=bearer(edge.token()), **options) as answer,
    ):
        assert answer.is_success
        assert answer.http_version == ("HTTP/2" if http2 else "HTTP/1.1")
        if door == "tickets":
            await answer.aread()
            edge.remember(answer.json()["ticket"])


async def test_one_http2_connection_carries_a_chat(edge, room):
    async with edge.http(http2=True) as client:
        headers = bearer(edge.token())
        async with client.stream("GET", "/v1/sse", params={"channels": room}, headers=headers) as response:
            lines = response.aiter_lines()
            while "room_joined" not in await anext(lines):
                pass
            for number in range(20):
                answer = await client.post(messages_of(room), json=number, headers=headers)
                assert (answer.status_code, answer.http_version) == (201, "HTTP/2")
            seen = []
            async for line in lines:
                if line.startswith("data:"):
                    seen.append(Envelope(line[5:]).data)
                if len(seen) == 20:
                    break
            assert seen == list(range(20))


async def test_a_connection_is_kept_alive_for_the_next_request(edge, room):
    reader, writer = await connect(edge)
    for _ in range(3):
        writer.write(head(edge, f"GET /v1/channels/{room}/messages HTTP/1.1"))
        status, headers, body = await answer_of(reader, f"/v1/channels/{room}/messages")
        assert status.startswith("HTTP/1.1 200")
        assert json.loads(body)["messages"] == []
    writer.close()


async def test_requests_in_one_packet_are_answered_in_their_order(edge, room):
    reader, writer = await connect(edge)
    paths = [f"/v1/channels/{room}/messages", f"/v1/channels/{room}/presence", "/v1/nothing"]
    writer.write(b"".join(head(edge, f"GET {path} HTTP/1.1") for path in paths))
    statuses = [(await answer_of(reader, path))[0].split()[1] for path in paths]
    assert statuses == ["200", "200", "404"]
    writer.close()


async def test_http_1_0_gets_an_answer_without_chunks_and_an_end(edge, room):
    """RFC 9112 §6.1: no transfer coding for who does not know it."""
    for path in (f"/v1/poll?channels={room}", f"/v1/channels/{room}/messages", "/v1/nothing"):
        reader, writer = await connect(edge)
        writer.write(head(edge, f"GET {path} HTTP/1.0"))
        text = (await asyncio.wait_for(reader.read(), 5)).decode()
        headers, _, body = text.partition("\r\n\r\n")
        assert "transfer-encoding" not in headers.lower()
        hold_answer(path, headers, body)
        writer.close()


async def test_http_1_0_gets_a_stream_without_chunks(edge, room):
    reader, writer = await connect(edge)
    writer.write(head(edge, f"GET /v1/sse?channels={room} HTTP/1.0"))
    headers = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)).decode()
    assert " 200 " in headers.splitlines()[0]
    assert "transfer-encoding" not in headers.lower()
    assert (await reader.readline()).startswith(b"retry:")
    text = await asyncio.wait_for(reader.readuntil(b'"room_joined"'), 5)
    assert b"\r\n" not in text, "no chunk sizes"
    await publish(edge, edge.token("bob"), room, "to the old one")
    await asyncio.wait_for(reader.readuntil(b"to the old one"), 5)
    writer.close()


@pytest.mark.parametrize(
    "request_head",
    ["GET", "GET / HTTP/9.9", "\x00\x01\x02", "GET /v1/poll HTTP/1.1\r\nHost", "GET  /v1/poll  HTTP/1.1",
     "POST /v1/send HTTP/1.1\r\nHost: x\r\nContent-Length: x", "POST /v1/send HTTP/1.1\r\nHost: x\r\nContent-Length: -1"],
)  # fmt: skip
async def test_a_broken_head_ends_that_connection_only(edge, request_head):
    reader, writer = await connect(edge)
    writer.write(request_head.encode() + b"\r\n\r\n")
    text = await asyncio.wait_for(reader.read(), 5)
    assert text == b"" or text.startswith(b"HTTP/1.") and b" 400 " in text.splitlines()[0] + b" "
    writer.close()
    async with websocket(edge, edge.token()) as socket:
        await socket.alive()


@pytest.mark.parametrize("hosts", ["", "Host: localhost\r\nHost: evil.example.com\r\n"], ids=["none", "two"])
async def test_a_request_names_exactly_one_host(edge, hosts):
    """RFC 9112 §3.2. Whose page an Origin is, is told by comparing it with the host."""
    reader, writer = await connect(edge)
    writer.write(f"GET /v1/poll?channels=a HTTP/1.1\r\n{hosts}Authorization: Bearer {edge.token()}\r\n\r\n".encode())
    assert (await asyncio.wait_for(reader.readline(), 5)).startswith(b"HTTP/1.1 400 ")
    writer.close()


HANDSHAKE = {
    "Host": "localhost",
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}


@pytest.mark.parametrize(
    ("version", "change"),
    [
        ("1.0", {}),
        ("1.1", {"Sec-WebSocket-Key": "no 16 bytes"}),
        ("1.1", {"Sec-WebSocket-Key": "c2hvcnQ="}),
        ("1.1", {"Sec-WebSocket-Key": None}),
        ("1.1", {"Upgrade": "h2c"}),
        ("1.1", {"Connection": "keep-alive"}),
    ],
)
async def test_a_handshake_is_held_to_its_standard(edge, version, change):
    """RFC 6455 §4.2.1."""
    reader, writer = await connect(edge)
    headers = {name: value for name, value in (HANDSHAKE | bearer(edge.token()) | change).items() if value is not None}
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    writer.write(f"GET /v1/ws HTTP/{version}\r\n{lines}\r\n".encode())
    status = (await asyncio.wait_for(reader.readline(), 5)).decode().split()[1]
    assert status in ("400", "426")
    writer.close()


async def test_the_same_handshake_is_taken_where_nothing_is_wrong(edge):
    reader, writer = await connect(edge)
    lines = "".join(f"{name}: {value}\r\n" for name, value in (HANDSHAKE | bearer(edge.token())).items())
    writer.write(f"GET /v1/ws HTTP/1.1\r\n{lines}\r\n".encode())
    answer = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)).decode().lower()
    assert answer.startswith("http/1.1 101 ")
    assert "sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=" in answer
    writer.close()


async def test_a_get_on_the_websocket_says_what_it_takes(edge):
    async with edge.http() as client:
        answer = await client.get("/v1/ws", headers=bearer(edge.token()))
        assert (answer.status_code, problem(answer).code) == (426, 4000)
        # RFC 9110 §15.5.22
        assert answer.headers["Upgrade"].lower() == "websocket"


async def test_another_websocket_version_is_told_the_right_one(edge):
    """RFC 6455 §4.2.2."""
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "8"}
    async with edge.http() as client:
        headers = bearer(edge.token()) | upgrade | {"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="}
        answer = await client.get("/v1/ws", headers=headers)
        assert answer.status_code in (400, 426)
        assert answer.headers["Sec-WebSocket-Version"] == "13"


async def test_problems_have_the_shape_of_rfc_9457(edge):
    async with edge.http() as client:
        answer = await client.get("/v1/poll", headers=bearer(edge.token()))
        body = problem(answer).payload
        assert (body["status"], body["code"], body["reason"]) == (400, 4000, "malformed")
        assert "channels" in body["detail"]


async def test_answers_are_dated(edge, room):
    async with poller(edge, edge.token(), room) as polls:
        assert "Date" in (await polls.poll()).response.headers
    async with event_stream(edge, edge.token(), room) as stream:
        assert "Date" in stream.response.headers, "RFC 9110 §6.6.1"


async def test_tls_1_2_and_1_3_are_spoken_and_nothing_older(edge):
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        context = ssl.create_default_context(cafile=edge.certificate.cert)
        context.minimum_version = context.maximum_version = version
        _, writer = await asyncio.open_connection("127.0.0.1", edge.port, ssl=context)
        assert writer.get_extra_info("ssl_object").version() == version.name.replace("TLSv1_", "TLSv1.")
        writer.close()


@pytest.mark.parametrize(("offered", "chosen"), [(["h2", "http/1.1"], "h2"), (["http/1.1"], "http/1.1"), ([], None)])
async def test_alpn_chooses_the_version(edge, offered, chosen):
    context = ssl.create_default_context(cafile=edge.certificate.cert)
    if offered:
        context.set_alpn_protocols(offered)
    _, writer = await asyncio.open_connection("127.0.0.1", edge.port, ssl=context)
    assert writer.get_extra_info("ssl_object").selected_alpn_protocol() == chosen
    writer.close()


async def test_without_tls_the_same_is_spoken_in_the_clear(start, room):
    edge = start(tls={"enabled": False})
    reader, writer = await asyncio.open_connection("127.0.0.1", edge.port)
    writer.write(head(edge, f"GET /v1/poll?channels={room} HTTP/1.1"))
    status, headers, body = await answer_of(reader, f"/v1/poll?channels={room}")
    assert "200" in status
    assert json.loads(body)["messages"][0]["type"] == "room_joined"
    writer.close()


# ---- HTTP/1 by hand ----


async def connect(edge):
    return await asyncio.open_connection(
        "127.0.0.1", edge.port, ssl=edge.certificate.trust, server_hostname="localhost"
    )


def head(edge, request_line: str) -> bytes:
    return f"{request_line}\r\nHost: localhost\r\nAuthorization: Bearer {edge.token()}\r\n\r\n".encode()


async def answer_of(reader, target: str) -> tuple[str, dict, str]:
    """The answer to a `GET`, held against docs/openapi.yaml."""
    text = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)).decode()
    length = int(re.search(r"(?i)\r\ncontent-length: *(\d+)", text)[1])
    body = (await reader.readexactly(length)).decode()
    status, headers = hold_answer(target, text, body)
    return status, headers, body


def hold_answer(target: str, head: str, body: str) -> tuple[str, httpx.Headers]:
    status, *lines = head.rstrip("\r\n").split("\r\n")
    headers = httpx.Headers([(name, value.strip()) for name, _, value in (line.partition(":") for line in lines)])
    check_exchange(Exchange("GET", target, int(status.split()[1]), headers["Content-Type"], headers, body))
    return status, headers
