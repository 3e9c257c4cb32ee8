"""Who a node is to NATS, how that is encrypted, and what it may do: with exactly the permissions of deploy/nats everything
works, and nothing beyond them does."""

import asyncio
import re
import shutil
import subprocess
import threading
import time

import httpx
import nats
import pytest
from nats.errors import Error

from edge import REPOSITORY, configuration, end_with_parent, find_binary, toml
from nats_jwt import Operator
from nats_server import PASSWORDS, deployed, nats_version, node, start_nats  # noqa: F401 (fixtures)
from nats_tls import Authority
from transports import TRANSPORTS, bearer, messages_of, presence_of, publish, subscribe, websocket
from wire import check_chain

PERMISSIONS = (REPOSITORY / "deploy" / "nats" / "permissions.conf").read_text()
SHOP = {"user": "shop", "password": PASSWORDS["NATS_SHOP_PASSWORD"], "inbox_prefix": "_INBOX.shop"}
EDGE = {"user": "edge", "password": PASSWORDS["NATS_EDGE_PASSWORD"]}
SOON = 8  # seconds within which a node that is refused has said so and ended


async def test_a_node_needs_no_more_than_the_permissions_that_are_written_down(start_nats, nats_version, node):
    """Whatever a node does with NATS is done here, on two of them; the server logs each attempt that it refuses."""
    server = start_nats(version=nats_version, **deployed())
    here, there = node(server), node(server)
    room = "chat:lobby"
    for transport in TRANSPORTS:
        async with subscribe(here, transport, here.token(), room) as receiver:
            await publish(there, there.token("bob"), room, *range(3))
            check_chain(await receiver.messages(3))
    async with websocket(here, here.token()) as socket, websocket(there, there.token("bob")) as other:
        # An id that is repeated on another node, history, presence, typing.
        first = await socket.publish(room, "x", message_id="once")
        again = await socket.publish(room, "x", message_id="once")
        assert (again.payload["duplicate"], again.payload["seq"]) == (True, first.payload["seq"])
        await other.join(room, history=2)
        assert (await other.messages(2))[1].data == "x"
        # Said to the other node as well, whoever is there to hear it.
        await socket.join(room, presence=True)
        await socket.send("typing_start", {"channel": room})
        await other.alive()
    async with there.http() as client:
        page = (await client.get(messages_of(room), headers=bearer(there.token()))).json()
        assert len(page["messages"]) == 10
        await client.get(presence_of(room), headers=bearer(there.token()))
    # A connection that is lost: it comes back, and looks at all of its channels.
    async with websocket(here, here.token()) as socket:
        await socket.join(room)
        server.kill()
        await asyncio.to_thread(server.start)
        await eventually(lambda: ready(here))
        await eventually(lambda: ready(there))
        await publish(there, there.token("bob"), room, "after")
        assert (await socket.until("message", timeout=10)).data == "after"
        # Time for what a node does every few seconds.
        await asyncio.sleep(5)
    assert not server.refused(), server.refused()


async def test_a_stream_that_was_restored_from_a_backup_is_marked(start_nats, nats_version, node, tmp_path):
    """What was acknowledged after the backup is gone, and its positions will be given again: an edge writes a new epoch into
    the stream's description, and nobody is left to believe the old one."""
    server = start_nats(version=nats_version, **deployed())
    edge = node(server)
    async with websocket(edge, edge.token()) as socket:
        joined = await socket.join("chat:lobby")
        await socket.publish("chat:lobby", "before")
        server.stop()
        shutil.copytree(server.folder / "store", tmp_path / "backup")
        await asyncio.to_thread(server.start)
        await eventually(lambda: ready(edge))
        await socket.publish("chat:lobby", "after")
        assert [message.data for message in await socket.messages(2)] == ["before", "after"]
        server.stop()
        shutil.rmtree(server.folder / "store")
        shutil.copytree(tmp_path / "backup", server.folder / "store")
        await asyncio.to_thread(server.start)
        gap = await socket.until("gap", timeout=20)
        assert gap.payload["reason"] == "epoch_changed"
        assert gap.payload["epoch"] != joined.payload["epoch"]
    assert not server.refused(), server.refused()


def ready(edge) -> bool:
    return httpx.get(f"http://{edge.admin_address}/readyz", trust_env=False).status_code == 200


@pytest.mark.parametrize(
    "subject",
    [
        "tidegate.pub.0.1.chat:a",
        "tidegate.out.tidegate.pub.0.1.chat:a",
        "tidegate.node.all.presence.0000000000000000",
        "shop.orders.a.b",
        "shop.other.1",
        "$JS.API.STREAM.INFO.TIDEGATE",
        "$JS.API.STREAM.DELETE.TIDEGATE",
        "$JS.API.STREAM.MSG.GET.TIDEGATE",
        "$JS.API.DIRECT.GET.TIDEGATE",
        "$KV.TIDEGATE-revoked.sub",
    ],
)
async def test_a_backend_may_publish_its_events_and_nothing_else(start_nats, node, subject):
    server = start_nats(**deployed())
    node(server)
    async with Client(server, SHOP) as shop:
        # What it may.
        await shop.connection.jetstream().publish("shop.orders.17", b"1")
        await shop.connection.publish(subject, b"{}")
        assert await shop.refused() == f'nats: permissions violation for publish to "{subject.lower()}"'


@pytest.mark.parametrize("subject", ["tidegate.out.>", "shop.orders.*", "_INBOX.>", ">", "$JS.EVENT.>"])
async def test_a_backend_may_hear_nothing_but_its_acknowledgements(start_nats, subject):
    server = start_nats(**deployed())
    async with Client(server, SHOP) as shop:
        await shop.connection.subscribe(subject)
        assert await shop.refused() == f'nats: permissions violation for subscription to "{subject.lower()}"'


@pytest.mark.parametrize(
    "subject",
    [
        "tidegate.out.shop.orders.1",
        "shop.other.1",
        "$JS.API.STREAM.DELETE.TIDEGATE",
        "$JS.API.STREAM.PURGE.TIDEGATE",
        "$JS.API.STREAM.INFO.OTHER",
        "$JS.API.STREAM.CREATE.OTHER",
        "$SYS.REQ.SERVER.PING",
    ],
)
async def test_a_node_can_neither_forge_what_is_stored_nor_delete_it(start_nats, subject):
    server = start_nats(**deployed())
    async with Client(server, EDGE) as edge:
        await edge.connection.publish(subject, b"{}")
        assert await edge.refused() == f'nats: permissions violation for publish to "{subject.lower()}"'


async def test_a_password_from_the_environment_may_be_a_hash(start_nats, node):
    """As `nats server passwd` makes one; this is of "secret-of-edge"."""
    options = deployed()
    hashed = "$2a$05$abcdefghijklmnopqrstuu3z7hIBBPfDPEwn9S4RCU69MZirmL10e"
    options["environment"] = PASSWORDS | {"NATS_EDGE_PASSWORD": hashed}
    await works(node(start_nats(**options)))


async def test_user_and_password(start_nats, node, refused):
    server = start_nats('authorization { user: edge, password: "a pass:word/@" }')
    await works(node(server, bus={"user": "edge", "password": "a pass:word/@"}))
    refused(server, {"user": "edge", "password": "wrong"}, "authorization violation")
    refused(server, {}, "authorization violation")


async def test_a_token(start_nats, node, refused):
    server = start_nats('authorization { token: "sesame" }')
    await works(node(server, bus={"token": "sesame"}))
    refused(server, {"token": "wrong-one"}, "authorization violation")


async def test_a_credentials_file(start_nats, node, refused, tmp_path):
    """Operator mode, with the permissions of deploy/nats in the user's JWT."""
    operator = Operator()
    server = start_nats(operator.config())
    file = tmp_path / "edge.creds"
    file.write_text(operator.credentials("edge", *permissions_of("edge")))
    await works(node(server, bus={"credentials": str(file)}))
    assert not server.refused(), server.refused()

    file.write_text(Operator().credentials("edge"))
    refused(server, {"credentials": str(file)}, "authorization violation")
    file.write_text("not a file of that kind")
    refused(server, {"credentials": str(file)}, "bus.credentials|credentials")
    refused(server, {"credentials": str(tmp_path / "nowhere.creds")}, "bus.credentials.*nowhere.creds")


async def test_tls_with_an_authority_of_our_own(start_nats, node, refused, tmp_path):
    authority = Authority(tmp_path)
    cert, key = authority.issue("server")
    server = start_nats(f'tls {{ cert_file: "{cert}", key_file: "{key}" }}')
    tls = f"tls://{server.address}"
    await works(node(server, bus={"url": tls, "tls_ca": str(authority.cert)}))
    # The authority alone insists on TLS as well.
    await works(node(server, bus={"tls_ca": str(authority.cert)}))
    refused(server, {"url": tls}, "certificate", ends=False)
    stranger = Authority(tmp_path, "stranger")
    refused(server, {"url": tls, "tls_ca": str(stranger.cert)}, "certificate", ends=False)
    refused(server, {"url": tls, "tls_ca": str(tmp_path / "nowhere.pem")}, "bus.tls_ca.*nowhere.pem")
    # A server without TLS gets no password from a node that insists.
    plain = start_nats()
    refused(plain, {"url": f"tls://{plain.address}", "tls_ca": str(authority.cert)}, "tls|corrupt message", ends=False)


async def test_tls_with_certificates_on_both_sides(start_nats, node, refused, tmp_path):
    """deploy/nats/tls.conf, included as its neighbours say."""
    authority = Authority(tmp_path)
    cert, key = authority.issue("server")
    options = deployed({'# include "tls.conf"': 'include "tls.conf"'})
    text = (REPOSITORY / "deploy" / "nats" / "tls.conf").read_text()
    for name, path in {"server.crt": cert, "server.key": key, "ca.crt": authority.cert}.items():
        assert f'"/etc/nats/certs/{name}"' in text
        text = text.replace(f"/etc/nats/certs/{name}", str(path))
    (tmp_path / "tls.conf").write_text(text)
    options["beside"] = [*options["beside"], tmp_path / "tls.conf"]
    server = start_nats(**options)

    mine, mine_key = authority.issue("edge")
    trusting = EDGE | {"url": f"tls://{server.address}", "tls_ca": str(authority.cert)}
    await works(node(server, bus=trusting | {"tls_cert": str(mine), "tls_key": str(mine_key)}))
    assert not server.refused(), server.refused()
    refused(server, trusting, "certificate", ends=False)
    theirs, their_key = Authority(tmp_path, "stranger").issue("edge-of-a-stranger")
    with_theirs = trusting | {"tls_cert": str(theirs), "tls_key": str(their_key)}
    refused(server, with_theirs, "certificate|unknown ?ca", ends=False)


def test_the_permissions_in_the_handbook_are_those_of_the_file():
    handbook = (REPOSITORY / "docs" / "nats.md").read_text()
    [written] = re.findall(r"```\n(accounts \{\n.*?)```", handbook, re.S)
    assert written in PERMISSIONS


# ---- What the tests share ----


async def works(edge) -> None:
    """Joins, publishes, receives, and reads it back out of the stream's history."""
    async with websocket(edge, edge.token()) as socket:
        await socket.join("orders:1")
        for number in range(3):
            await socket.publish("orders:1", number)
        check_chain(await socket.messages(3))


@pytest.fixture
def refused(certificate, tmp_path):
    """Starts a node that NATS does not let in: it says soon why, without its secrets, and never listens. With `ends` it
    has ended by then; what may be a server that is just being set up is tried for longer."""

    def refused(server, bus: dict, why: str, ends: bool = True) -> None:
        bus = {"kind": "nats", "url": server.url} | bus
        file = tmp_path / "refused.toml"
        addresses = {"addr": "127.0.0.1:0", "admin": "127.0.0.1:0"}
        file.write_text(toml(configuration(certificate, bus=bus, listen=addresses)))
        with subprocess.Popen(
            [find_binary(), "--config", file],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, preexec_fn=end_with_parent,
        ) as process:  # fmt: skip
            said = ""
            timer = threading.Timer(SOON, process.kill)
            timer.start()
            for line in process.stdout:
                said += line.decode()
                if not ends and re.search(why, said, re.I):
                    process.kill()
            code = process.wait()
            timer.cancel()
        assert re.search(why, said, re.I), said
        assert "listening" not in said, said
        assert not ends or code == 1, f"exit code {code}: {said}"
        assert not any(bus[secret] in said for secret in ("password", "token") if secret in bus), said

    return refused


def permissions_of(user: str) -> list[list[str]]:
    """Its lists of subjects in the file: publish, subscribe."""
    block = PERMISSIONS.partition(f"user: {user}")[2]
    without_comments = re.sub(r"^\s*#.*$", "", block, flags=re.M)
    return [
        re.findall(r'"([^"]+)"', re.search(rf"{kind}: \[(.*?)\]", without_comments, re.S)[1])
        for kind in ("publish", "subscribe")
    ]


class Client:
    """A connection, with the refusals that it is told."""

    def __init__(self, server, who: dict):
        self.server, self.who = server, who
        self.errors: asyncio.Queue[Error] = asyncio.Queue()

    async def __aenter__(self) -> "Client":
        self.connection = await nats.connect(self.server.url, error_cb=self.errors.put, **self.who)
        return self

    async def __aexit__(self, *_) -> None:
        await self.connection.close()

    async def refused(self) -> str:
        await self.connection.flush()
        return str(await asyncio.wait_for(self.errors.get(), 5)).lower()


async def eventually(holds, seconds: float = 15) -> None:
    deadline = time.monotonic() + seconds
    while not await asyncio.to_thread(holds):
        assert time.monotonic() < deadline, "not within the time"
        await asyncio.sleep(0.1)
