"""What deploy/ and docker-compose.yml have for many nodes, as far as it can be run without containers: the very files, with other
addresses."""

import asyncio
import os
import re
import stat
import subprocess

import httpx
import nats
import pytest
import yaml

from edge import REPOSITORY, find_binary
from nats_server import DEPLOYED, PASSWORDS, deployed, exchange
from nats_server import nats_version, node, start_nats, start_nats_cluster  # noqa: F401 (fixtures)
from proxies import haproxy
from transports import TRANSPORTS, publish, subscribe, websocket
from wire import check_chain

COMPOSE = REPOSITORY / "docker-compose.yml"
SERVICES = yaml.safe_load(COMPOSE.read_text())["services"]


@pytest.fixture
def cluster(start_nats_cluster):
    """Three servers with deploy/nats/cluster.conf."""

    def cluster(version: str = "current"):
        options = deployed(name="cluster.conf") | {"version": version}
        text = options.pop("config")

        def config(number: int, routes: list[int]) -> str:
            own = {
                "http: 8222": 'http: "127.0.0.1:-1"',
                '"/data"': '"store"',
                "port: 6222": f'listen: "127.0.0.1:{routes[number - 1]}"',
            }
            return exchange(text, own)

        def environment(routes: list[int]) -> dict[str, str]:
            """That of compose, with addresses of this machine."""
            given = substituted(SERVICES["nats-1"]["environment"])
            for number, port in enumerate(routes, 1):
                name = f"NATS_ROUTE_{number}"
                given |= exchange_in(given, name, f"nats-{number}:6222", f"127.0.0.1:{port}")
            return given

        return start_nats_cluster(config, **options | {"environment": environment})

    return cluster


def exchange_in(values: dict[str, str], name: str, old: str, new: str) -> dict[str, str]:
    return {name: exchange(values[name], {old: new})}


async def test_three_edges_on_three_servers_behind_the_balancer(cluster, nats_version, node, tmp_path):
    """The whole of docker-compose.yml: any edge will do, and one server may be lost."""
    servers = cluster(nats_version)
    replicas = {"replicas": 3, "user": "edge", "password": PASSWORDS["NATS_EDGE_PASSWORD"]}
    edges = [node(*servers, bus=replicas, listen={"proxy_protocol": True}) for _ in range(3)]
    proxy = haproxy(tmp_path, edges)
    try:
        door = proxy.door(edges[0])
        room = "chat:lobby"
        for transport in TRANSPORTS:
            async with subscribe(door, transport, door.token(), room) as receiver:
                await publish(door, door.token("bob"), room, *range(6))
                check_chain(await receiver.messages(6))

        async with websocket(door, door.token()) as socket:
            joined = await socket.join(room)
            leader = next(server for server in servers if leads(server, servers))
            leader.kill()
            # Until there is a new leader a send may be refused, with the advice to come again; it is never lost or doubled.
            for number in range(10):
                await until_taken(socket, room, number)
            seen = await socket.messages(10, timeout=15)
            check_chain(seen, prev=joined.payload["seq"])
            assert [message.data for message in seen] == list(range(10))
    finally:
        proxy.stop()
    assert not [line for server in servers for line in server.refused()]


def leads(server, servers) -> bool:
    """Whether it leads the stream of messages."""
    accounts = server.monitor("jsz?streams=1&acc=TIDEGATE")["account_details"]
    streams = [stream for account in accounts for stream in account.get("stream_detail", [])]
    mine = server.monitor("varz")["server_name"]
    return any(one["name"] == "TIDEGATE" and one["cluster"].get("leader") == mine for one in streams)


async def until_taken(socket, room: str, data) -> None:
    for _ in range(40):
        answer = await socket.ask("message", {"channel": room, "data": data}, message_id=f"id-{data}")
        if answer.type == "message_ack":
            return
        assert answer.payload["reason"] == "overloaded", answer.raw
        await asyncio.sleep(answer.payload["retry_after_ms"] / 1000)
    raise AssertionError("never taken")


async def test_a_stream_is_changed_first_and_the_edges_after_it(start_nats, node):
    """As docs/nats.md says, by `admin`: more is taken as it is, what would not do ends the start and is named."""
    server = start_nats(**deployed())
    edge = node(server)
    async with websocket(edge, edge.token()) as socket:
        await socket.join("orders:1")
        ack = await socket.publish("orders:1", "before")
    admin = await nats.connect(server.url, user="admin", password=PASSWORDS["NATS_ADMIN_PASSWORD"])
    jetstream = admin.jetstream()
    config = (await jetstream.stream_info("TIDEGATE")).config

    # Two namespaces take what backends publish; the stream does not yet.
    with pytest.raises(AssertionError, match=r'(?s)subjects is .*must be .*"shop.stock.\*"'):
        node(server, channels__stock={"subject": "shop.stock.*"})
    longer, most = config.max_age + 3600, config.max_msgs_per_subject * 2
    await jetstream.update_stream(config.evolve(
        subjects=[*config.subjects, "shop.stock.*"], max_age=longer, max_msgs_per_subject=most
    ))  # fmt: skip
    other = node(server, channels__stock={"subject": "shop.stock.*"})
    await jetstream.publish("shop.stock.7", b"3")
    async with subscribe(other, "ws", other.token(), "stock:7,orders:1", history=10) as socket:
        assert sorted(str(message.data) for message in await socket.messages(2)) == ["3", "before"]
    # The one that was there all the time goes on.
    async with websocket(edge, edge.token()) as socket:
        answer = await socket.join("orders:1", recover={"epoch": ack.payload["epoch"], "seq": ack.payload["seq"] - 1})
        assert answer.payload["recovered"] is True
        assert (await socket.expect("message")).data == "before"

    with pytest.raises(AssertionError, match="the number of replicas is 1 and must be 3"):
        node(server, bus={"replicas": 3, "user": "edge", "password": PASSWORDS["NATS_EDGE_PASSWORD"]})
    await admin.close()


# ---- docker-compose.yml, read ----


def test_compose_mounts_only_what_is_there():
    for name, service in SERVICES.items():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("."):
                assert (REPOSITORY / source).exists(), f"{name}: {source}"
            else:
                assert source in yaml.safe_load(COMPOSE.read_text())["volumes"], f"{name}: {source}"


def test_compose_has_three_edges_that_differ_in_their_name_alone():
    edges = [SERVICES[f"edge-{number}"] for number in (1, 2, 3)]
    servers = [SERVICES[f"nats-{number}"] for number in (1, 2, 3)]
    same = [{key: value for key, value in edge.items() if key != "ports"} for edge in edges]
    assert same[0] == same[1] == same[2]
    assert [server["command"] for server in servers] == [
        ["-c", "/etc/nats/cluster.conf", "--name", f"nats-{number}"] for number in (1, 2, 3)
    ]
    ports = [port.rsplit(":", 1)[0] for service in [*edges, *servers] for port in service.get("ports", [])]
    assert len(ports) == len(set(ports)) and all(port.startswith("127.0.0.1:") for port in ports)
    # Those of the balancer and of the single edge, one at a time, are the public ones.
    assert SERVICES["balancer"]["ports"] == ["8443:8443"] and SERVICES["edge"]["profiles"] == ["one"]


@pytest.mark.parametrize("name", ["edge", "edge-1"])
def test_the_configuration_of_composes_edges_is_one(name, certificate, tmp_path):
    """deploy/tidegate.toml with the variables of that service, as `check-config` sees it."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("TIDEGATE_")}
    environment |= substituted(SERVICES[name]["environment"])
    file = tmp_path / "tidegate.toml"
    text = (REPOSITORY / "deploy" / "tidegate.toml").read_text()
    certs = {"/etc/tidegate/certs/dev.crt": str(certificate.cert), "/etc/tidegate/certs/dev.key": str(certificate.key)}
    file.write_text(exchange(text, certs))
    checked = subprocess.run(
        [find_binary(), "check-config", "--config", file], env=environment, capture_output=True, text=True, timeout=10
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
    urls = environment.get("TIDEGATE_BUS__URL", "")
    assert re.findall(r"nats://(nats-\d):4222", urls) == (["nats-1", "nats-2", "nats-3"] if name == "edge-1" else [])


def substituted(environment: dict[str, str]) -> dict[str, str]:
    """With what make-env.sh makes."""
    made = {"TIDEGATE_AUTH__HS256_SECRET": "p" + "0" * 64, **PASSWORDS}
    return {key: re.sub(r"\$\{(\w+):\?[^}]*\}", lambda match: made[match[1]], value) for key, value in environment.items()}


def test_every_secret_of_compose_is_made_by_the_script(tmp_path):
    (tmp_path / "deploy").mkdir()
    script = tmp_path / "deploy" / "make-env.sh"
    script.write_bytes((REPOSITORY / "deploy" / "make-env.sh").read_bytes())
    subprocess.run(["sh", script], check=True, timeout=10)
    file = tmp_path / ".env"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    made = dict(line.split("=", 1) for line in file.read_text().splitlines() if line and not line.startswith("#"))
    asked = set(re.findall(r"\$\{(\w+):\?", COMPOSE.read_text()))
    assert asked == {name for name in made if not name.endswith(("UID", "GID"))}
    secrets = [made[name] for name in asked]
    assert len(set(secrets)) == len(secrets) and all(re.fullmatch(r"p[0-9a-f]{64}", secret) for secret in secrets)
    again = subprocess.run(["sh", script], capture_output=True, timeout=10)
    assert again.returncode == 1 and file.read_text().splitlines()[1].endswith(made["TIDEGATE_AUTH__HS256_SECRET"])


def test_every_variable_of_the_servers_is_given_by_compose():
    asked = set(re.findall(r"\$(NATS_\w+)", "".join(file.read_text() for file in DEPLOYED.glob("*.conf"))))
    assert asked == set(SERVICES["nats-1"]["environment"])


async def test_a_cluster_is_healthy_only_when_it_can_store(cluster):
    """What compose waits for before it starts the edges."""
    servers = cluster()
    assert httpx.get(f"{servers[0].monitoring}/healthz", trust_env=False).status_code == 200
    servers[1].kill()
    servers[2].kill()
    for _ in range(300):
        if httpx.get(f"{servers[0].monitoring}/healthz", trust_env=False).status_code == 503:
            return
        await asyncio.sleep(0.1)
    raise AssertionError("healthy without the others")
