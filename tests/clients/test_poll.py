"""Long polling: at once when there is something to say, else as long as was asked for."""

import asyncio
import time

import pytest

from transports import poller, publish


async def timed(awaitable):
    began = time.monotonic()
    return await awaitable, time.monotonic() - began


@pytest.mark.parametrize("http2", [False, True])
async def test_without_a_cursor_it_answers_at_once_with_room_joined(edge, room, http2):
    async with poller(edge, edge.token(), f"{room},{room}-b", http2=http2) as polls:
        answer, seconds = await timed(polls.poll())
        assert seconds < 1
        assert [(e.type, e.payload["channel"]) for e in answer.envelopes] == [
            ("room_joined", room),
            ("room_joined", f"{room}-b"),
        ]
        # Each names all channels: whoever is cut off between two of them has its place in both.
        for joined in answer.envelopes:
            assert (await polls.poll(cursor=joined.payload["cursor"], wait=0)).envelopes == []
        assert answer.response.http_version == ("HTTP/2" if http2 else "HTTP/1.1")


async def test_without_a_cursor_history_comes_with_it(edge, room):
    await publish(edge, edge.token("bob"), room, 0, 1, 2)
    async with poller(edge, edge.token(), room) as polls:
        answer = await polls.poll(history=2)
        assert [e.type for e in answer.envelopes] == ["room_joined", "message", "message"]
        assert [m.data for m in answer.of_type("message")] == [1, 2]
        assert (await polls.poll(cursor=answer.cursor, wait=0)).envelopes == []


async def test_with_a_cursor_it_waits_for_the_first_message(edge, room):
    async with poller(edge, edge.token(), room) as polls:
        cursor = (await polls.poll()).cursor
        waiting = asyncio.create_task(timed(polls.poll(cursor=cursor)))
        await asyncio.sleep(1)
        assert not waiting.done()
        await publish(edge, edge.token("bob"), room, "now")
        answer, seconds = await waiting
        assert [m.data for m in answer.envelopes] == ["now"]
        assert 1 <= seconds < 2.5
        assert answer.cursor != cursor


async def test_what_is_there_already_comes_at_once_and_together(edge, room):
    async with poller(edge, edge.token(), room) as polls:
        cursor = (await polls.poll()).cursor
        await publish(edge, edge.token("bob"), room, *range(5))
        answer, seconds = await timed(polls.poll(cursor=cursor))
        assert [m.data for m in answer.envelopes] == list(range(5))
        assert seconds < 1


@pytest.mark.parametrize("wait", [0, 1])
async def test_when_nothing_comes_it_says_so_in_time(edge, room, wait):
    async with poller(edge, edge.token(), room) as polls:
        cursor = (await polls.poll()).cursor
        answer, seconds = await timed(polls.poll(cursor=cursor, wait=wait))
        assert answer.envelopes == []
        assert wait <= seconds < wait + 1
        await publish(edge, edge.token("bob"), room, "later")
        assert [m.data for m in (await polls.poll(cursor=answer.cursor)).envelopes] == ["later"]


async def test_the_same_cursor_gives_the_same_answer_again(edge, room):
    """An answer that got lost on its way is asked for again."""
    async with poller(edge, edge.token(), room) as polls:
        cursor = (await polls.poll()).cursor
        await publish(edge, edge.token("bob"), room, 0, 1)
        one, two = await polls.poll(cursor=cursor), await polls.poll(cursor=cursor)
        assert [e.raw for e in one.envelopes] == [e.raw for e in two.envelopes]
        assert one.cursor == two.cursor


async def test_many_may_wait_on_one_http2_connection(edge, room):
    async with poller(edge, edge.token(), room, http2=True) as polls:
        cursor = (await polls.poll()).cursor
        waiting = [asyncio.create_task(polls.poll(cursor=cursor)) for _ in range(20)]
        await asyncio.sleep(0.3)
        await publish(edge, edge.token("bob"), room, "all")
        answers = await asyncio.wait_for(asyncio.gather(*waiting), 5)
        assert all([m.data for m in answer.envelopes] == ["all"] for answer in answers)


async def test_it_holds_the_chain_over_many_polls_under_load(edge, room):
    async with poller(edge, edge.token(), room) as polls:
        cursor = (await polls.poll()).cursor
        publishing = asyncio.create_task(publish(edge, edge.token("bob"), room, *range(100)))
        seen = []
        while len(seen) < 100:
            answer = await polls.poll(cursor=cursor, wait=5)
            cursor = answer.cursor
            seen += answer.envelopes
        await publishing
        assert [message.data for message in seen] == list(range(100))


async def test_a_long_backlog_comes_in_several_answers_or_one_but_whole(edge, room):
    async with poller(edge, edge.token(), room) as polls:
        cursor = (await polls.poll()).cursor
        await publish(edge, edge.token("bob"), room, *["x" * 10_000 for _ in range(60)])
        seen = 0
        while seen < 60:
            answer = await polls.poll(cursor=cursor, wait=0)
            assert answer.envelopes
            cursor = answer.cursor
            seen += len(answer.envelopes)
        assert seen == 60
