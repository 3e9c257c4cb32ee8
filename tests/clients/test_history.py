"""Pages of history, on a WebSocket and over HTTP."""

import pytest

from refusals import problem
from transports import bearer, messages_of, publish, websocket
from wire import Envelope, check_chain, raw_items

FORMS = ["envelope", "http"]


async def page(edge, form, channel, **query) -> dict:
    """The payload, its messages as checked envelopes."""
    if form == "envelope":
        async with websocket(edge, edge.token()) as socket:
            answer = await socket.ask("history", {"channel": channel} | query)
            assert answer.type == "history_page", answer.raw
            payload, text = answer.payload, answer.raw
    else:
        async with edge.http() as client:
            answer = await client.get(messages_of(channel), params=query, headers=bearer(edge.token()))
            assert answer.status_code == 200, answer.text
            payload, text = answer.json(), answer.text
    assert payload.keys() == {"channel", "epoch", "messages", "more"}
    assert payload["channel"] == channel
    return payload | {"messages": [Envelope(raw) for raw in raw_items(text, "messages")]}


async def refused(edge, form, channel, **query) -> dict:
    if form == "envelope":
        async with websocket(edge, edge.token()) as socket:
            payload = await socket.refused("history", {"channel": channel} | query)
            await socket.alive()
            return payload
    async with edge.http() as client:
        return problem(await client.get(messages_of(channel), params=query, headers=bearer(edge.token()))).payload


@pytest.mark.parametrize("form", FORMS)
async def test_an_empty_channel_has_an_empty_page(edge, room, form):
    answer = await page(edge, form, room)
    assert (answer["messages"], answer["more"]) == ([], False)


@pytest.mark.parametrize("form", FORMS)
async def test_pages_go_on_after_a_seq_until_there_is_no_more(edge, room, form):
    await publish(edge, edge.token(), room, *range(7))
    seen, after, pages = [], 0, []
    while not pages or pages[-1]["more"]:
        pages.append(await page(edge, form, room, after=after, limit=3))
        seen += pages[-1]["messages"]
        after = seen[-1].payload["seq"]
    assert [len(p["messages"]) for p in pages] == [3, 3, 1]
    assert [message.data for message in seen] == list(range(7))
    check_chain(seen, prev=0)


@pytest.mark.parametrize("form", FORMS)
async def test_without_after_a_page_begins_with_the_oldest_and_has_100(edge, room, form):
    await publish(edge, edge.token(), room, *range(103))
    answer = await page(edge, form, room)
    assert [message.data for message in answer["messages"]] == list(range(100))
    assert answer["more"] is True


@pytest.mark.parametrize("form", FORMS)
async def test_a_page_that_ends_with_the_newest_says_so(edge, room, form):
    acks = await publish(edge, edge.token(), room, *range(3))
    answer = await page(edge, form, room, limit=3)
    assert (len(answer["messages"]), answer["more"], answer["epoch"]) == (3, False, acks[0]["epoch"])
    assert (await page(edge, form, room, after=acks[2]["seq"]))["messages"] == []


@pytest.mark.parametrize("form", FORMS)
async def test_a_thousand_is_the_largest_page(edge, room, form):
    assert (await page(edge, form, room, limit=1000))["messages"] == []
    assert (await refused(edge, form, room, limit=1001))["reason"] == "malformed"


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("query", [{"limit": 0}, {"limit": -1}, {"limit": "x"}, {"after": -1}, {"after": "x"}])
async def test_a_wrong_number_is_malformed(edge, room, form, query):
    assert (await refused(edge, form, room, **query))["reason"] == "malformed"


async def test_history_page_comes_without_a_correlation_id_too(edge, room):
    async with websocket(edge, edge.token()) as socket:
        await socket.send("history", {"channel": room})
        assert (await socket.expect("history_page")).correlation_id is None


async def test_history_needs_no_join(edge, room):
    await publish(edge, edge.token(), room, 1)
    async with websocket(edge, edge.token()) as socket:
        assert len((await socket.ask("history", {"channel": room})).payload["messages"]) == 1
        await publish(edge, edge.token(), room, 2)
        await socket.nothing(0.2)
