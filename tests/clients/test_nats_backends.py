"""Backends that publish through NATS: the files of clients/nats as they are, as a user that may do just that."""

import asyncio
import json
import sys

import nats
import pytest

from edge import REPOSITORY
from nats_server import PASSWORDS, deployed, nats_version, node, start_nats  # noqa: F401 (fixtures)
from transports import bearer, messages_of, poller, subscribe, websocket
from wire import check_chain

EXAMPLES = REPOSITORY / "clients" / "nats"
SHOP = PASSWORDS["NATS_SHOP_PASSWORD"]


@pytest.fixture
def server(start_nats, nats_version):
    return start_nats(version=nats_version, **deployed())


def command(example: str, server, subject: str, data, message_id: str, password: str = SHOP) -> list[str]:
    body = json.dumps(data)
    if example == "publish.py":
        where = ["--server", server.url, "--user", "shop", "--password", password]
        return [example, *where, "--stream", "TIDEGATE", "--id", message_id, subject, body]
    return [example, subject, body, server.url.replace("//", f"//shop:{password}@"), "--id", message_id]


async def run(example: str, *arguments, **options) -> tuple[int, str, str]:
    [file, *rest] = command(example, *arguments, **options)
    process = await asyncio.create_subprocess_exec(
        sys.executable, EXAMPLES / file, *rest, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        out, err = await asyncio.wait_for(process.communicate(), 40)
    finally:
        if process.returncode is None:
            process.kill()
    return process.returncode, out.decode(), err.decode()


async def acknowledged(*arguments) -> dict:
    code, out, err = await run(*arguments)
    assert code == 0, err
    return json.loads(out)


@pytest.mark.parametrize("example", ["publish.py", "publish_by_hand.py"])
async def test_an_event_is_a_message_with_position_and_history_once(server, node, example):
    here, there = node(server), node(server)
    async with websocket(here, here.token()) as socket:
        joined = await socket.join("orders:17")
        paid = {"state": "paid", "total": 12.5, "to": "Ünal"}
        ack = await acknowledged(example, server, "shop.orders.17", paid, "order-17-paid")
        message = await socket.expect("message")
        assert (message.data, message.payload["sender_id"]) == (paid, "server")
        assert (message.payload["seq"], message.metadata["message_id"]) == (ack["seq"], "order-17-paid")
        assert message.payload["epoch"] == joined.payload["epoch"]

        # Again, as after an acknowledgement that was lost; then a new one.
        again = await acknowledged(example, server, "shop.orders.17", paid, "order-17-paid")
        assert (again["seq"], again["duplicate"]) == (ack["seq"], True)
        await acknowledged(example, server, "shop.orders.17", {"state": "sent"}, "order-17-sent")
        sent = await socket.expect("message")
        assert sent.data == {"state": "sent"}
        check_chain([message, sent], prev=0)
    # On a node that has never seen the channel.
    async with there.http() as client:
        page = (await client.get(messages_of("orders:17"), headers=bearer(there.token()))).json()
    assert [one["payload"]["data"] for one in page["messages"]] == [paid, {"state": "sent"}]
    assert [one["payload"]["seq"] for one in page["messages"]] == [message.payload["seq"], sent.payload["seq"]]
    async with poller(there, there.token(), "orders:17") as polls:
        polls.cursor = socket.cursor
        check_chain(await polls.messages(2), prev=0)
    assert not server.refused()


async def test_backends_and_clients_share_one_order(server, node):
    edge = node(server)
    async with subscribe(edge, "ws", edge.token(), "orders:a.b") as socket:
        # A dot in a channel's name would part the subject.
        await acknowledged("publish_by_hand.py", server, "shop.orders.a%2Eb", 1, "one")
        ack = await socket.publish("orders:a.b", 2, message_id="two")
        await acknowledged("publish_by_hand.py", server, "shop.orders.a%2Eb", 3, "three")
        seen = await socket.messages(3)
    check_chain(seen, prev=0)
    assert [message.data for message in seen] == [1, 2, 3]
    assert [message.payload["sender_id"] for message in seen] == ["server", "alice", "server"]
    assert seen[1].payload["seq"] == ack.payload["seq"]


async def test_what_is_no_json_is_passed_over_and_nothing_stops(server, node):
    edge = node(server)
    connection = await nats.connect(server.url, user="shop", password=SHOP, inbox_prefix="_INBOX.shop")
    async with websocket(edge, edge.token()) as socket:
        await socket.join("orders:17")
        jetstream = connection.jetstream()
        for body in (b'"before"', b"{no json", b"", b"\xff\xfe", b'{"a": 1} {}', b'"after"'):
            await jetstream.publish("shop.orders.17", body)
        seen = await socket.messages(2)
        assert [message.data for message in seen] == ["before", "after"]
        check_chain(seen, prev=0)
        # Made from the position, since the backend gave none: the same on every node.
        assert seen[0].metadata["message_id"] != seen[1].metadata["message_id"]
        await socket.nothing()
    other = node(server)
    async with subscribe(other, "ws", other.token(), "orders:17", history=10) as socket:
        assert [(m.data, m.metadata["message_id"]) for m in await socket.messages(2)] == [
            (m.data, m.metadata["message_id"]) for m in seen
        ]
    await connection.close()
    assert len([line for line in edge.log if "WARN" in line and "passed over" in line and "orders:17" in line]) == 4


async def test_a_backend_may_say_who_and_what_id(server, node):
    edge = node(server)
    connection = await nats.connect(server.url, user="shop", password=SHOP, inbox_prefix="_INBOX.shop")
    async with websocket(edge, edge.token()) as socket:
        await socket.join("orders:17")
        headers = {"Nats-Msg-Id": "sku 17/1", "Tidegate-Sender": "till-4 %C3%BC"}
        await connection.jetstream().publish("shop.orders.17", b'{"x":\n[1, 2]}', headers=headers)
        message = await socket.expect("message")
    await connection.close()
    assert message.payload["sender_id"] == "till-4 ü"
    assert message.metadata["message_id"] == "sku 17/1"
    assert message.data == {"x": [1, 2]}


@pytest.mark.parametrize("example", ["publish.py", "publish_by_hand.py"])
async def test_a_backend_repeats_until_nats_is_back(server, node, example):
    edge = node(server)
    async with websocket(edge, edge.token()) as socket:
        await socket.join("orders:17")
        server.kill()
        waiting = asyncio.create_task(acknowledged(example, server, "shop.orders.17", "late", "one"))
        await asyncio.sleep(1.5)
        assert not waiting.done()
        await asyncio.to_thread(server.start)
        await waiting
        assert (await socket.expect("message", timeout=15)).data == "late"
        await socket.nothing(1)


@pytest.mark.parametrize("example", ["publish.py", "publish_by_hand.py"])
async def test_a_backend_that_may_not_ends_at_once_and_says_why(server, node, example):
    node(server)
    for subject, password, why in [
        ("shop.orders.17", "wrong", "authorization violation"),
        ("shop.secrets.17", SHOP, "permissions violation"),
        ("tidegate.pub.0.1.chat:a", SHOP, "permissions violation"),
    ]:
        code, out, err = await asyncio.wait_for(run(example, server, subject, 1, "x", password), 8)
        assert code == 1 and not out and why in err.lower(), (code, out, err)
