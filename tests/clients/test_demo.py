"""The demo chat in Chromium: two pages and a publisher talk to each other on all three transports, and across switches."""

import asyncio
import contextlib
import itertools

import pytest

from chromium import chromium
from transports import TRANSPORTS, messages_of


@pytest.fixture
def demo(start):
    return start(development=True)


class Chatter:
    """Somebody in front of the page."""

    def __init__(self, page, name):
        self.page = page
        self.name = name

    async def is_connected(self):
        await self.page.wait_for("document.querySelector('#status').dataset.state === 'connected'")

    async def says(self, text):
        await self.page.type("#text", text)
        await self.page.click("#send")

    async def switches_to(self, transport):
        await self.page.click(f"input[name=transport][value={transport}]")
        await self.is_connected()

    async def sees(self, text):
        await self.page.wait_for(f"document.querySelector('#messages li[data-seq][data-text=\"{text}\"]')", seconds=15)

    async def messages(self) -> list[tuple[int, str, str]]:
        items = "[...document.querySelectorAll('#messages li[data-seq]')]"
        rows = await self.page.evaluate(f"{items}.map(({{ dataset: d }}) => [Number(d.seq), d.sender, d.text])")
        return [tuple(row) for row in rows]

    async def stats(self) -> dict[str, int]:
        counts = await self.page.evaluate("({ ...document.querySelector('#stats').dataset })")
        return {name: int(counts[name]) for name in ("received", "gaps", "duplicates")}


async def chatter(browser, edge, name, channel, transport):
    chatter = Chatter(
        await browser.page(edge.url(f"/?name={name}&channel={channel}&transport={transport}&connect=1")), name
    )
    await chatter.is_connected()
    return chatter


async def say_by_http(edge, channel, text):
    async with edge.http() as client:
        answer = await client.post(messages_of(channel), json={"text": text})
        assert answer.status_code == 201, answer.text


async def check(chatters, expected):
    for one in chatters:
        messages = await one.messages()
        assert [text for _, _, text in messages] == expected
        assert sorted(seq for seq, _, _ in messages) == [seq for seq, _, _ in messages]
        assert await one.stats() == {"received": len(expected), "gaps": 0, "duplicates": 0}


async def test_the_page_as_it_comes_lets_its_visitor_in(demo, room, tmp_path):
    async with chromium(tmp_path / "profile") as browser:
        visitor = Chatter(await browser.page(demo.url("/")), "whatever it proposes")
        await visitor.page.evaluate("document.querySelector('#join').requestSubmit()")
        await visitor.is_connected()
        await visitor.says("here I am")
        await visitor.sees("here I am")


@pytest.mark.parametrize(("his", "hers"), [("ws", "sse"), ("sse", "poll"), ("poll", "ws")])
async def test_two_pages_and_a_publisher_chat(demo, room, tmp_path, his, hers):
    async with chromium(tmp_path / "profile") as browser:
        bob = await chatter(browser, demo, "Bob", room, his)
        alice = await chatter(browser, demo, "Alice", room, hers)
        await bob.says("I am Bob")
        await alice.sees("I am Bob")
        await alice.says("I am Alice")
        await bob.sees("I am Alice")
        await say_by_http(demo, room, "I am a terminal")
        for one in (alice, bob):
            await one.sees("I am a terminal")
            for name in ("Alice", "Bob"):
                await one.page.wait_for(f"document.querySelector('#presence li[data-user=\"{name}\"]')", seconds=10)
        await check([alice, bob], ["I am Bob", "I am Alice", "I am a terminal"])
        senders = [sender for _, sender, _ in await alice.messages()]
        assert senders[:2] == ["Bob", "Alice"]
        assert senders[2].startswith("guest-")
        await alice.page.screenshot(tmp_path / f"alice-{hers}.png")
        await bob.page.screenshot(tmp_path / f"bob-{his}.png")


async def test_a_chat_goes_on_over_every_switch_while_others_talk(demo, room, tmp_path):
    async with chromium(tmp_path / "profile") as browser:
        alice = await chatter(browser, demo, "Alice", room, "ws")
        said = []

        async def talk():
            for number in itertools.count():
                await say_by_http(demo, room, f"line {number}")
                said.append(f"line {number}")
                await asyncio.sleep(0.12)  # within the quota of a guest: 100 a minute, at once

        talking = asyncio.create_task(talk())
        for transport in [*TRANSPORTS[1:], *TRANSPORTS, *reversed(TRANSPORTS)]:
            await alice.switches_to(transport)
            await asyncio.sleep(0.4)
        talking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await talking
        await say_by_http(demo, room, "the end")
        await alice.sees("the end")
        texts = [text for _, _, text in await alice.messages()]
        # The last one may have been cut off after the server took it.
        assert [text for text in texts if text in said] == said
        assert (await alice.stats())["gaps"] == (await alice.stats())["duplicates"] == 0
        assert (await alice.stats())["received"] == len(texts)
        await alice.page.screenshot(tmp_path / "alice-after-switches.png")


async def test_typing_is_shown_and_goes_away(demo, room, tmp_path):
    async with chromium(tmp_path / "profile") as browser:
        alice = await chatter(browser, demo, "Alice", room, "sse")
        bob = await chatter(browser, demo, "Bob", room, "ws")
        await bob.page.type("#text", "Hello")
        await alice.page.wait_for("document.querySelector('#typing').textContent.includes('Bob')")
        await bob.page.click("#send")
        await alice.sees("Hello")
        await alice.page.wait_for("!document.querySelector('#typing').textContent.includes('Bob')")


async def test_the_page_shows_where_it_stands(demo, room, tmp_path):
    async with chromium(tmp_path / "profile") as browser:
        alice = await chatter(browser, demo, "Alice", room, "ws")
        await alice.says("here")
        await alice.sees("here")
        [(seq, _, _)] = await alice.messages()
        assert str(seq) in await alice.page.evaluate("document.querySelector('#position').textContent")


async def test_what_others_write_never_becomes_markup(demo, room, tmp_path):
    async with chromium(tmp_path / "profile") as browser:
        alice = await chatter(browser, demo, "Alice", room, "ws")
        await say_by_http(demo, room, "<img src=x onerror='window.broken = true'><b>bold</b>")
        await say_by_http(demo, room, "last")
        await alice.sees("last")
        assert await alice.page.evaluate("window.broken === undefined && !document.querySelector('#messages b b')")
        assert "<b>bold</b>" in (await alice.messages())[0][2]


@pytest.mark.parametrize("path", ["/", "/demo"])
async def test_the_page_is_served_in_development_mode(demo, path):
    async with demo.http() as client:
        answer = await client.get(path)
        assert answer.status_code == 200
        assert answer.headers["Content-Type"].startswith("text/html")
        assert "default-src 'self'" in answer.headers["Content-Security-Policy"]
        head = await client.head(path)
        assert (head.status_code, head.content) == (200, b"")


async def test_development_mode_is_of_this_machine_only(demo):
    assert demo.address.startswith("127.0.0.1:")
