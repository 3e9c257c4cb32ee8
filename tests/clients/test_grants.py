"""What a token lets its owner do, channel by channel."""

import pytest

from refusals import problem, refusal
from transports import bearer, messages_of, publish, subscribe, websocket


def only(edge, join=(), send=(), sub="alice", **claims):
    return edge.token(sub, channels={"join": list(join), "send": list(send)}, **claims)


async def may_join(edge, token, channel) -> bool:
    async with websocket(edge, token) as socket:
        answer = await socket.ask("join_room", {"channel": channel})
        if answer.type == "error":
            assert (answer.payload["code"], answer.payload["reason"]) == (4000, "forbidden")
            assert answer.payload["channel"] == channel
            await socket.alive()
        return answer.type == "room_joined"


async def may_send(edge, token, channel) -> bool:
    async with edge.http() as client:
        answer = await client.post(messages_of(channel), json=1, headers=bearer(token))
        if not answer.is_success:
            refused = problem(answer)
            assert (answer.status_code, refused.reason, refused.payload["channel"]) == (403, "forbidden", channel)
        return answer.is_success


@pytest.mark.parametrize("door", ["sse", "poll", "send", "history", "publish", "presence"])
async def test_without_a_grant_http_is_refused_with_403(edge, door):
    refused = await refusal(edge, door, only(edge), room="chat:secret")
    assert (refused.payload["status"], refused.code, refused.reason) == (403, 4000, "forbidden")
    assert refused.payload["channel"] == "chat:secret"


@pytest.mark.parametrize("type", ["join_room", "message", "history", "presence", "typing_start"])
async def test_without_a_grant_a_websocket_is_told_and_lives_on(edge, type):
    async with websocket(edge, only(edge)) as socket:
        refused = await socket.refused(type, {"channel": "chat:secret", "data": 1})
        assert (refused["code"], refused["reason"]) == (4000, "forbidden")
        await socket.alive()


async def test_ten_forbidden_in_a_row_close(edge):
    async with websocket(edge, only(edge)) as socket:
        for _ in range(10):
            await socket.send("join_room", {"channel": "chat:secret"})
        assert (await socket.closed())[0] == 4000


@pytest.mark.parametrize(
    ("grant", "channel", "granted"),
    [
        ("chat:lobby", "chat:lobby", True),
        ("chat:lobby", "chat:lobby2", False),
        ("chat:lobby", "chat:lobb", False),
        ("chat:lobby", "Chat:lobby", False),
        ("chat:*", "chat:lobby", True),
        ("chat:*", "chat:a:b", True),
        ("chat:*", "chats:lobby", False),
        ("chat:*", "chat", False),
        ("chat*", "chats:lobby", True),
        ("*", "anything", True),
        ("*", "a:b", True),
        ("c*t:lobby", "chat:lobby", False),
        ("*:lobby", "chat:lobby", False),
    ],
)
async def test_a_grant_is_a_name_or_a_beginning(edge, grant, channel, granted):
    token = only(edge, join=[grant], send=[grant])
    if "*" in grant[:-1]:
        # A server may as well refuse the whole token; what it must not do is to grant by it.
        async with edge.http() as client:
            answer = await client.get("/v1/poll", params={"channels": channel}, headers=bearer(token))
            assert answer.status_code in (401, 403)
    else:
        assert await may_join(edge, token, channel) is granted
        assert await may_send(edge, token, channel) is granted


async def test_joining_and_sending_are_granted_apart(edge):
    reader, writer = only(edge, join=["chat:*"]), only(edge, send=["chat:*"])
    assert await may_join(edge, reader, "chat:a") is True
    assert await may_send(edge, reader, "chat:a") is False
    assert await may_join(edge, writer, "chat:a") is False
    assert await may_send(edge, writer, "chat:a") is True


async def test_one_channel_without_a_grant_refuses_the_stream(edge):
    token = only(edge, join=["chat:a"])
    async with edge.http() as client:
        for path in ("/v1/sse", "/v1/poll"):
            answer = await client.get(path, params={"channels": "chat:a,chat:b"}, headers=bearer(token))
            assert (answer.status_code, problem(answer).payload["channel"]) == (403, "chat:b")


@pytest.mark.parametrize("transport", ["ws", "sse", "poll"])
async def test_an_inbox_is_open_to_its_owner_on_every_transport(edge, transport):
    async with subscribe(edge, transport, only(edge, sub="alice-1"), "user:alice-1") as alice:
        await publish(edge, only(edge, sub="backend", role="server"), "user:alice-1", "for you")
        assert (await alice.expect("message")).data == "for you"


async def test_an_inbox_is_closed_to_everybody_else(edge):
    assert await may_join(edge, only(edge, sub="bob"), "user:alice") is False
    assert await may_send(edge, only(edge, sub="bob"), "user:alice") is False
    assert await may_join(edge, only(edge, sub="alice"), "user:alice:more") is False
    assert await may_join(edge, only(edge, sub="support", join=["user:*"]), "user:alice") is True


async def test_an_inbox_is_closed_to_others_whatever_its_namespace_says(start):
    edge = start(channels__user={"join": "anyone", "send": "anyone"})
    assert await may_join(edge, only(edge, sub="bob"), "user:alice") is False
    assert await may_join(edge, only(edge, sub="alice"), "user:alice") is True


async def test_a_backend_may_send_anywhere(edge):
    backend = only(edge, sub="backend", role="server")
    for channel in ("chat:a", "user:alice", "anything"):
        assert await may_send(edge, backend, channel) is True


async def test_members_channels_need_a_token_and_no_grant(edge):
    assert await may_join(edge, only(edge), "members:a") is True
    assert await may_send(edge, only(edge), "members:a") is True


async def test_open_channels_need_no_grant(edge):
    assert await may_join(edge, only(edge), "open:a") is True
    assert await may_send(edge, edge.token(channels=None), "open:a") is True
