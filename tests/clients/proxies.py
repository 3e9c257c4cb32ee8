"""What deploy/ puts in front of edges, as itself: the real haproxy and nginx with the files of that folder, in which only
addresses and paths are exchanged for those of the test."""

import copy
import os
import re
import shutil
import socket
import subprocess
import threading
import time
from pathlib import Path

from edge import REPOSITORY, Certificate, Edge, end_with_parent
from nats_server import exchange, free_ports

DEPLOY = REPOSITORY / "deploy"


class Proxy:
    """A running one. `door` is an edge as seen through it."""

    def __init__(self, command: list[str], port: int, **options):
        tool = shutil.which(command[0], path=f"{os.environ['PATH']}:/usr/sbin")
        assert tool, f"{command[0]} is missing: apt-get install --no-install-recommends {command[0]}"
        self.address = f"127.0.0.1:{port}"
        self.log: list[str] = []
        self.process = subprocess.Popen(
            [tool, *command[1:]], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            preexec_fn=end_with_parent, **options,
        )  # fmt: skip
        self._reader = threading.Thread(target=self._read_log, daemon=True)
        self._reader.start()
        self._wait_until_open(port)

    def door(self, edge: Edge) -> Edge:
        seen = copy.copy(edge)
        seen.address = self.address
        return seen

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._reader.join(5)
        self.process.stdout.close()

    def _read_log(self) -> None:
        for line in self.process.stdout:
            self.log.append(line.decode(errors="replace").rstrip("\n"))

    def _wait_until_open(self, port: int) -> None:
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                return
            except OSError:
                time.sleep(0.05)
        self.process.kill()
        self._reader.join(1)
        raise AssertionError(f"{self.process.args} does not listen:\n" + "\n".join(self.log))


def haproxy(folder: Path, edges: list[Edge]) -> Proxy:
    [port] = free_ports(1)
    text = exchange((DEPLOY / "haproxy.cfg").read_text(), {"bind :8443": f"bind 127.0.0.1:{port}", "maxconn 60000": "maxconn 500"})
    for number in (1, 2, 3):
        name = f"edge-{number}:8443"
        if number <= len(edges):
            edge = edges[number - 1]
            text = exchange(text, {name: f"{edge.address} port {edge.admin_address.rpartition(':')[2]}"})
        else:
            text = re.sub(rf"^.*{name}.*\n", "", text, flags=re.M)
    file = folder / "haproxy.cfg"
    file.write_text(text)
    return Proxy(["haproxy", "-db", "-f", str(file)], port)


def nginx(folder: Path, edges: list[Edge], certificate: Certificate) -> Proxy:
    [port] = free_ports(1)
    own = "".join(
        f"{kind}_temp_path {folder}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    text = exchange(
        (DEPLOY / "nginx.conf").read_text(),
        {
            "listen 443 ssl": f"listen 127.0.0.1:{port} ssl",
            "server_name realtime.example.com": "server_name localhost",
            "/run/nginx.pid": f"{folder}/nginx.pid",
            "/etc/nginx/certs/realtime.crt": str(certificate.cert),
            "/etc/nginx/certs/realtime.key": str(certificate.key),
            "/etc/nginx/certs/edges-ca.crt": str(certificate.cert),
            "http {\n": "http {\n" + own,
            # What a test machine allows, and one worker to end with the master.
            "worker_processes auto": "worker_processes 1",
            "worker_rlimit_nofile 131072;\n": "",
            "worker_connections 65536": "worker_connections 512",
        },
    )
    for number in (1, 2, 3):
        line = f"server edge-{number}:8443"
        text = exchange(text, {line: f"server {edges[min(number, len(edges)) - 1].address}"})
    if os.geteuid() == 0:
        # Else its worker would be nobody, and could not write into the test's folder.
        text = "user root;\n" + text
    file = folder / "nginx.conf"
    file.write_text(text)
    return Proxy(["nginx", "-c", str(file), "-g", "daemon off;"], port)
