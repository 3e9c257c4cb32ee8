"""What pages have by themselves: WebSocket, EventSource and fetch of Chromium, from another origin than the edge's."""

import http.server
import json
import threading

import pytest

from chromium import chromium
from forwarder import MESSAGES, cut_now_and_then, forwarder
from transports import publish, websocket


class BlankPage(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!doctype html><title>A page</title>")

    def log_message(self, *_):
        pass


@pytest.fixture
def site():
    """A web server with a blank page; its two names are two origins."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), BlankPage)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield {"allowed": f"http://127.0.0.1:{server.server_port}", "other": f"http://localhost:{server.server_port}"}
    server.shutdown()
    server.server_close()


@pytest.fixture
def page_edge(start, site):
    return start(origins={"allow": [site["allowed"]]})


def js(value) -> str:
    return json.dumps(value)


async def test_a_websocket_of_a_page_chats(page_edge, site, room, tmp_path):
    edge = page_edge
    async with chromium(tmp_path) as browser, websocket(edge, edge.token("bob")) as bob:
        await bob.join(room)
        page = await browser.page(site["allowed"])
        await page.run(f"""
            const offers = ["tidegate.v1.json", "tidegate.bearer." + {js(edge.token("alice"))}];
            window.socket = new WebSocket({js(edge.url("/v1/ws", "wss"))} + "?channels={room}", offers);
            window.got = [];
            socket.onmessage = (event) => got.push(JSON.parse(event.data));
        """)
        await page.wait_for("got.some((envelope) => envelope.type === 'room_joined')")
        assert await page.evaluate("socket.protocol") == "tidegate.v1.json"
        assert await page.evaluate("socket.extensions.split(';')[0]") == "permessage-deflate"
        assert await page.evaluate("got[0].payload.user_id") == "alice"
        await bob.publish(room, "much " * 1000)
        await page.wait_for("got.some((envelope) => envelope.payload.data === 'much '.repeat(1000))")
        await bob.publish(room, "from bob")
        await page.wait_for("got.some((envelope) => envelope.payload.data === 'from bob')")
        message = {"type": "message", "payload": {"channel": room, "data": "from alice"}}
        await page.evaluate(f"socket.send({js(js(message))})")
        assert (await bob.until("message", data="from alice")).payload["sender_id"] == "alice"


async def test_a_websocket_of_a_page_goes_over_the_connection_that_is_there(start, room, tmp_path):
    """RFC 8441: Chromium opens it on a stream of the HTTP/2 connection that brought the page."""
    edge = start(development=True)
    async with chromium(tmp_path) as browser:
        page = await browser.page(edge.url("/"))
        await page.call("Network.enable")
        open_before = tcp_connections(edge)
        await page.run(f"""
            const url = {js(edge.url("/v1/ws", "wss"))} + "?channels={room}";
            window.sockets = [1, 2].map(() => new WebSocket(url, "tidegate.v1.json"));
            window.got = sockets.map(() => []);
            sockets.forEach((socket, i) => socket.onmessage = (event) => got[i].push(JSON.parse(event.data)));
        """)
        joined = "got.every((own) => own.some((envelope) => envelope.type === 'room_joined'))"
        await page.wait_for(joined)
        assert [answer["status"] for answer in browser.handshakes] == [200, 200], browser.handshakes
        assert tcp_connections(edge) == open_before, "no further one"
        assert await page.evaluate("sockets[0].protocol") == "tidegate.v1.json"
        large = "x" * 60_000
        message = {"type": "message", "payload": {"channel": room, "data": large}}
        await page.evaluate(f"sockets[0].send({js(js(message))})")
        await page.wait_for(f"got.every((own) => own.some((envelope) => envelope.payload.data === {js(large)}))")
        close = "new Promise((resolve) => { sockets[0].onclose = resolve; sockets[0].close(4321, 'bye'); })"
        ended = await page.run(f"const close = await {close}; return [close.code, close.wasClean];")
        assert ended == [4321, True]
        refused = await page.run(f"""
            const socket = new WebSocket({js(edge.url("/v1/ws", "wss"))} + "?token=" + {js(edge.token(ttl=-1))});
            const told = [];
            socket.onmessage = (event) => told.push(JSON.parse(event.data).payload.code);
            const close = await new Promise((resolve) => socket.onclose = resolve);
            return [told, close.code, close.wasClean];
        """)
        assert refused == [[4002], 4002, True]
        assert tcp_connections(edge) == open_before
        # The other one, and the connection, live on; a drain is told as over HTTP/1.1.
        edge.signal()
        ended = await page.run("""
            const close = await new Promise((resolve) => sockets[1].onclose = resolve);
            return [close.code, close.reason.split("=")[0], close.wasClean];
        """)
        assert ended == [1012, "restart;retry", True]


def tcp_connections(edge) -> int:
    lines = edge.admin("/metrics").text.splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("tidegate_tcp_connections_active "))


@pytest.mark.parametrize(("origin", "expired", "code"), [("allowed", True, 4002), ("other", False, 4003)])
async def test_a_page_sees_why_its_websocket_is_refused(page_edge, site, tmp_path, origin, expired, code):
    token = page_edge.token(ttl=-1 if expired else 600)
    async with chromium(tmp_path) as browser:
        page = await browser.page(site[origin])
        seen = await page.run(f"""
            const socket = new WebSocket({js(page_edge.url("/v1/ws", "wss"))} + "?token=" + {js(token)});
            const got = [];
            socket.onmessage = (event) => got.push(JSON.parse(event.data));
            const close = await new Promise((resolve) => socket.onclose = resolve);
            return {{ code: close.code, wasClean: close.wasClean, got }};
        """)
        assert (seen["code"], seen["wasClean"]) == (code, True)
        assert [(e["type"], e["payload"]["code"]) for e in seen["got"]] == [("error", code)]


async def test_an_event_source_of_a_page_receives_and_knows_its_place(page_edge, site, room, tmp_path):
    edge = page_edge
    async with chromium(tmp_path) as browser:
        page = await browser.page(site["allowed"])
        await listen(page, edge, room)
        await page.wait_for("got.some(({ envelope }) => envelope.type === 'room_joined')")
        await publish(edge, edge.token("bob"), room, *range(20))
        await page.wait_for("got.filter(({ envelope }) => envelope.type === 'message').length === 20")
        got = await page.evaluate("got")
        types = [one["envelope"]["type"] for one in got]
        assert types == ["connection_established", "room_joined"] + ["message"] * 20
        assert got[0]["id"] == ""
        assert len({one["id"] for one in got[1:]}) == 21


async def test_an_event_source_of_another_page_gets_nothing(page_edge, site, room, tmp_path):
    async with chromium(tmp_path) as browser:
        page = await browser.page(site["other"])
        await listen(page, page_edge, room)
        await page.wait_for("source.readyState === EventSource.CLOSED")
        assert await page.evaluate("got") == []


async def test_an_event_source_comes_back_after_a_temporary_refusal(start, site, room, tmp_path):
    edge = start(origins={"allow": [site["allowed"]]}, quota={"connections_per_ip": 2})
    async with chromium(tmp_path) as browser:
        page = await browser.page(site["allowed"])
        async with websocket(edge, edge.token()), websocket(edge, edge.token()):
            await listen(page, edge, room)
            await page.wait_for("got.some(({ envelope }) => envelope.type === 'error')")
            assert await page.evaluate("got[0].envelope.payload.code") == 4004
        await page.wait_for("got.some(({ envelope }) => envelope.type === 'room_joined')", seconds=20)


async def test_an_event_source_goes_on_by_itself_after_a_restart(start, site, room, tmp_path):
    settings = {"origins": {"allow": [site["allowed"]]}}
    first = start(**settings)
    async with chromium(tmp_path) as browser:
        page = await browser.page(site["allowed"])
        await listen(page, first, room)
        await page.wait_for("got.some(({ envelope }) => envelope.type === 'room_joined')")
        await publish(first, first.token("bob"), room, "before")
        await page.wait_for("got.some(({ envelope }) => envelope.payload.data === 'before')")
        first.stop()
        second = start(at=first.address, **settings)
        # It comes with its Last-Event-ID, of which the new log knows nothing.
        await page.wait_for("got.some(({ envelope }) => envelope.payload.reason === 'epoch_changed')", seconds=20)
        await publish(second, second.token("bob"), room, "after")
        await page.wait_for("got.some(({ envelope }) => envelope.payload.data === 'after')")
        data = await page.evaluate(
            "got.filter(({ envelope }) => envelope.type === 'message').map((m) => m.envelope.payload.data)"
        )
        assert data == ["before", "after"]


async def test_an_event_source_that_is_cut_off_comes_back_to_its_place(page_edge, site, room, tmp_path):
    edge = page_edge
    async with chromium(tmp_path) as browser, forwarder(edge) as road:
        page = await browser.page(site["allowed"])
        # It repeats the whole URL: what `history` asks for must not come again.
        url = f"https://{road.address}/v1/sse?channels={room}&history=5&token={edge.token()}"
        await page.run(f"""
            window.source = new EventSource({js(url)});
            window.joined = 0;
            window.got = [];
            source.onmessage = ({{ data }}) => {{
                const {{ type, payload }} = JSON.parse(data);
                if (type === "room_joined") joined += 1;
                if (type === "message") got.push(payload.data);
            }};
        """)
        await page.wait_for("joined === 1")
        await cut_now_and_then(edge, room, road, lambda count: page.wait_for(f"got.length >= {count}", seconds=20))
        assert await page.evaluate("got") == list(range(MESSAGES))
        assert await page.evaluate("joined") == 4


async def test_fetch_of_a_page_polls_publishes_and_reads_refusals(page_edge, site, room, tmp_path):
    edge = page_edge
    async with chromium(tmp_path) as browser:
        page = await browser.page(site["allowed"])
        seen = await page.run(f"""
            const edge = {js(edge.url())};
            const headers = {{ Authorization: "Bearer " + {js(edge.token("alice"))}, "Content-Type": "application/json" }};
            const json = async (path, options = {{}}) => (await fetch(edge + path, {{ headers, ...options }})).json();
            const first = await json("/v1/poll?channels={room}");
            const polling = json("/v1/poll?channels={room}&cursor=" + first.cursor);
            const key = {{ ...headers, "Idempotency-Key": "k" }};
            const body = JSON.stringify({{ text: "hi" }});
            const ack = await json("/v1/channels/{room}/messages", {{ method: "POST", headers: key, body }});
            const refusal = await fetch(edge + "/v1/poll?channels={room}");
            return {{ ack, news: await polling, status: refusal.status, problem: await refusal.json() }};
        """)
        assert [(m["payload"]["data"], m["payload"]["seq"]) for m in seen["news"]["messages"]] == [
            ({"text": "hi"}, seen["ack"]["seq"])
        ]
        assert (seen["status"], seen["problem"]["code"]) == (401, 4001)


async def test_fetch_of_another_page_can_neither_read_nor_send(page_edge, site, room, tmp_path):
    edge = page_edge
    async with chromium(tmp_path) as browser, websocket(edge, edge.token("bob")) as bob:
        await bob.join(room)
        page = await browser.page(site["other"])
        seen = await page.run(f"""
            const options = {{ method: "POST", body: "1", headers: {{ Authorization: "Bearer " + {js(edge.token())} }} }};
            const outcome = (url, options) => fetch(url, options).then(() => "answered", (error) => error.name);
            const base = {js(edge.url())};
            return [await outcome(base + "/v1/channels/{room}/messages", options),
                    await outcome(base + "/v1/poll?channels={room}&token=" + {js(edge.token())})];
        """)
        assert seen == ["TypeError", "TypeError"]
        await bob.nothing(0.2)


async def listen(page, edge, room):
    await page.run(f"""
        window.source = new EventSource({js(edge.url("/v1/sse"))} + "?channels={room}&token=" + {js(edge.token("alice"))});
        window.got = [];
        source.onmessage = ({{ data, lastEventId }}) => got.push({{ envelope: JSON.parse(data), id: lastEventId }});
    """)
