"""Real nats-servers with JetStream, started on free ports with a store of their own, ended by their pids.

`start_nats` starts one, with a text of configuration if need be, `start_nats_cluster` three that know each other; both take
`version="old"`, the oldest that must work.
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import httpx
import pytest

from edge import REPOSITORY, Edge, end_with_parent

VERSIONS = ["current", "old"]
INSTALL = "./test clients    # installs it, or: .venv/bin/pip install -r tests/clients/requirements.txt"
REFUSED = re.compile(r"\b(Publish|Subscription) Violation\b")


def find_nats(version: str = "current") -> Path:
    """`old` is the oldest that must work, the package of Debian 12."""
    if version == "old":
        named = os.environ.get("NATS_SERVER_OLD")
        candidates = [named] if named else sorted((REPOSITORY / ".venv").glob("nats-2.9.*/nats-server"))
    else:
        named = os.environ.get("NATS_SERVER")
        beside = REPOSITORY / ".venv" / "bin" / "nats-server"
        candidates = [named] if named else [shutil.which("nats-server"), beside]
    for candidate in candidates:
        if candidate and Path(candidate).is_file():
            return Path(candidate).resolve()
    raise FileNotFoundError(f"no nats-server ({version}; looked at {candidates}): {INSTALL}")


class NatsServer:
    """One running server. `stop`, `kill` and `start` may follow each other: address and store stay."""

    def __init__(
        self,
        folder: Path,
        config: str = "",
        version: str = "current",
        wait: bool = True,
        flags: Sequence[str] = (),
        beside: Sequence[Path] = (),
        environment: dict[str, str] | None = None,
    ):
        """`beside` are files that the configuration includes."""
        self.folder = folder
        self.flags = list(flags)
        self.environment = os.environ | (environment or {})
        for file in beside:
            shutil.copy(file, folder)
        self.log: list[str] = []
        self.binary = find_nats(version)
        self.port = -1
        self.file = folder / "nats-server.conf"
        own = {"http": '"127.0.0.1:-1"', "jetstream": f'{{ store_dir: "{folder / "store"}" }}'}
        absent = [f"{key}: {value}\n" for key, value in own.items() if not re.search(rf"^{key}\b", config, re.M)]
        self.file.write_text("".join(absent) + f'ports_file_dir: "{folder}"\n' + config)
        self.start(wait)

    def start(self, wait: bool = True) -> None:
        """On the port it had. Without `wait` it may still be loading, as one of a cluster is without the others."""
        command = [str(self.binary), "-c", str(self.file), "--addr", "127.0.0.1", "--port", str(self.port), *self.flags]
        self.process = subprocess.Popen(
            command, cwd=self.folder, env=self.environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            preexec_fn=end_with_parent,
        )  # fmt: skip
        self._reader = threading.Thread(target=self._read_log, args=[self.process.stdout], daemon=True)
        self._reader.start()
        try:
            ports = self._wait_for("its ports", self._ports)
            self.port = int(ports["nats"][0].rpartition(":")[2])
            self.monitoring = ports["monitoring"][0]
            if wait:
                self.wait_until_healthy()
        except BaseException:
            self.kill()
            raise

    def wait_until_healthy(self) -> None:
        self._wait_for("healthy", lambda: self.monitor("healthz").get("status") == "ok")

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"nats://{self.address}"

    def monitor(self, what: str) -> dict:
        """`connz`, `jsz` and the like, as the monitoring port shows them."""
        return httpx.get(f"{self.monitoring}/{what}", trust_env=False).json()

    def refused(self) -> list[str]:
        """What clients tried that their permissions do not allow."""
        return [line for line in self.log if REFUSED.search(line)]

    def pause(self) -> None:
        """Silent, with its connections open. `go_on` ends it."""
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        self.process.kill()
        self._ended()

    def stop(self) -> None:
        if self.process.poll() is None:
            self.go_on()
            self.process.terminate()
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
        self._ended()

    def _ended(self) -> None:
        self.process.wait()
        self._reader.join(5)
        self.process.stdout.close()

    def _read_log(self, stdout) -> None:
        for line in stdout:
            self.log.append(line.decode(errors="replace").rstrip("\n"))

    def _ports(self) -> dict | None:
        """The server writes them into a file of its pid once it listens."""
        try:
            return json.loads((self.folder / f"{self.binary.name}_{self.process.pid}.ports").read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            return None

    def _wait_for(self, what: str, look: Callable):
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                if found := look():
                    return found
            except httpx.TransportError:
                pass
            time.sleep(0.02)
        self._reader.join(0.2)
        raise AssertionError(f"nats-server: not {what}:\n" + "\n".join(self.log[-60:]))


DEPLOYED = REPOSITORY / "deploy" / "nats"
PASSWORDS = {f"NATS_{who}_PASSWORD": f"secret-of-{who.lower()}" for who in ("EDGE", "SHOP", "ADMIN", "ROUTE")}


def deployed(changes: dict[str, str] | None = None, name: str = "single.conf") -> dict:
    """What starts a server with a file of deploy/nats and what that includes, but for addresses and the folder of its store."""
    own = {"single.conf": {'http: "127.0.0.1:8222"': 'http: "127.0.0.1:-1"', '"/var/lib/nats"': '"store"'}}
    text = exchange((DEPLOYED / name).read_text(), own.get(name, {}) | (changes or {}))
    return {"config": text, "beside": sorted(DEPLOYED.glob("*.conf")), "environment": PASSWORDS}


def exchange(text: str, changes: dict[str, str]) -> str:
    """A name that is not there any more fails, rather than leave the text as it is."""
    for name, value in changes.items():
        assert name in text, f"no `{name}` in the file any more"
        text = text.replace(name, value)
    return text


def free_ports(count: int) -> list[int]:
    """Ports that were free a moment ago: servers of a cluster have to know each other's before they start."""
    taken = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in taken]
    for one in taken:
        one.close()
    return ports


@pytest.fixture
def start_nats(tmp_path_factory) -> Iterator[Callable[..., NatsServer]]:
    started: list[NatsServer] = []

    def start(config: str = "", **options) -> NatsServer:
        started.append(NatsServer(tmp_path_factory.mktemp("nats"), config, **options))
        return started[-1]

    yield start
    for server in started:
        server.stop()


@pytest.fixture
def start_nats_cluster(tmp_path_factory) -> Iterator[Callable[..., list[NatsServer]]]:
    """Three that know each other; `config` is asked for each, by its number, and like `environment` gets the ports of the routes
    between them."""
    started: list[NatsServer] = []

    def start(
        config: Callable[[int, list[int]], str], environment: Callable[[list[int]], dict[str, str]], **options
    ) -> list[NatsServer]:
        routes = free_ports(3)
        options["environment"] = environment(routes)
        for number in (1, 2, 3):
            folder, flags = tmp_path_factory.mktemp(f"nats-{number}"), ["--name", f"nats-{number}"]
            started.append(NatsServer(folder, config(number, routes), wait=False, flags=flags, **options))
        for server in started:
            server.wait_until_healthy()
        return started

    yield start
    for server in started:
        server.stop()


@pytest.fixture(params=VERSIONS)
def nats_version(request) -> str:
    """For what must work with the oldest version too."""
    return request.param


@pytest.fixture
def node(start) -> Callable[..., Edge]:
    """Starts an edge on a NATS server of deploy/nats, as its user `edge`; `bus` has other settings for it."""

    def node(*servers: NatsServer, bus: dict | None = None, **changes) -> Edge:
        who = {"user": "edge", "password": PASSWORDS["NATS_EDGE_PASSWORD"]}
        settings = {"kind": "nats", "url": ",".join(server.url for server in servers)} | (who if bus is None else bus)
        edge = start(bus=settings, channels__orders={"subject": "shop.orders.*"}, **changes)
        for secret in {"password", "token"} & settings.keys():
            edge.remember(settings[secret])
        return edge

    return node
