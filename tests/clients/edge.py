"""The server under test: its real binary, started with a configuration of its own on free ports, ended by its pid.

Every token and ticket that a test uses is remembered, and must never appear in what the server writes.
"""

import ctypes
import datetime
import ipaddress
import json
import os
import re
import signal
import ssl
import subprocess
import threading
import time
import uuid
from pathlib import Path

import httpx
import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from documents import EVENTS, Exchange, check_exchange

SECRET = "a shared secret of the tests, long enough for HS256"
ISSUER = "https://id.example.com"
AUDIENCE = "tidegate-tests"
APP = "https://app.example.com"  # the page that may connect

REPOSITORY = Path(__file__).parents[2]
ANSI = re.compile(r"\x1b\[[0-9;]*m")
LISTENING = {name: re.compile(rf'\b{name}"?\s*[=:]\s*"?([0-9.]+:\d+)') for name in ("addr", "admin")}


def find_binary() -> Path:
    named = os.environ.get("TIDEGATE_BIN")
    candidates = (
        [Path(named)] if named else [REPOSITORY / "target" / kind / "tidegate" for kind in ("release", "debug")]
    )
    for candidate in candidates:
        if candidate.is_file():
            return candidate.resolve()
    raise FileNotFoundError(f"no {' or '.join(map(str, candidates))}: build it with `cargo build --release`")


def configuration(certificate: "Certificate", **changes: dict) -> dict:
    """Strict where a test can provoke it, generous where it cannot; `changes` are merged section by section."""
    sections = {
        "listen": {"drain": "1s", "max_connections": 1000},
        "tls": {"cert": str(certificate.cert), "key": str(certificate.key)},
        "auth": {"mode": "required", "hs256_secret": SECRET, "issuer": ISSUER, "audience": AUDIENCE, "timeout": "1s"},
        "origins": {"allow": [APP]},
        "limits": {"message_bytes": 16384, "channels_per_connection": 8},
        "quota": {
            "connections_per_ip": 0,
            "connects_per_ip_per_minute": 0,
            "messages_per_connection_per_minute": 0,
            "requests_per_connection_per_minute": 0,
            "sends_per_server_per_second": 0,
        },
        "channels.quiet": {"presence": False},
        "channels.open": {"join": "anyone", "send": "anyone"},
        "channels.members": {"join": "authenticated", "send": "authenticated"},
        "log": {"level": "info,tidegate=trace"},
    }
    for section, values in changes.items():
        name = section.replace("__", ".")
        sections[name] = sections.get(name, {}) | values
    return sections


def toml(sections: dict) -> str:
    """Strings, numbers, booleans and lists of strings are written in TOML as in JSON."""
    return "\n".join(
        f"[{name}]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items())
        for name, values in sections.items()
    )


class Trusted:
    """A certificate that `trust` trusts, and nothing else."""

    def __init__(self, cert: Path):
        self.cert = cert

    @property
    def trust(self) -> ssl.SSLContext:
        """A new one each time: httpx writes its ALPN offer into what it is given."""
        return ssl.create_default_context(cafile=self.cert)


class Certificate(Trusted):
    """A throwaway one for localhost."""

    def __init__(self, folder: Path):
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Tidegate client tests")])
        now = datetime.datetime.now(datetime.UTC)
        names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .sign(key, hashes.SHA256())
        )
        cert, self.key = folder / "edge.crt", folder / "edge.key"
        cert.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        self.key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        super().__init__(cert)


class Edge:
    """One running server."""

    running: list["Edge"] = []

    def __init__(self, certificate: Trusted, folder: Path, sections: dict | None, listen: str = "127.0.0.1:0"):
        """Without `sections` there is no configuration file: development mode, which makes its own certificate."""
        self.certificate = certificate
        self.folder = folder
        self.log: list[str] = []
        self.secrets: set[str] = set()
        command = [str(find_binary())]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("TIDEGATE_")}
        if sections is None:
            environment |= {"TIDEGATE_LISTEN__ADDR": listen, "TIDEGATE_LISTEN__ADMIN": "127.0.0.1:0"}
        else:
            addresses = {"addr": listen, "admin": "127.0.0.1:0"}
            sections = sections | {"listen": addresses | sections.get("listen", {})}
            file = folder / "tidegate.toml"
            file.write_text(toml(sections))
            command += ["--config", str(file)]
        self.process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            preexec_fn=end_with_parent,
        )
        Edge.running.append(self)
        self._reader = threading.Thread(target=self._read_log, daemon=True)
        self._reader.start()
        try:
            self.address, self.admin_address = self._wait_until_listening()
            self._wait_until_ready()
            if sections is None:
                self.certificate = Trusted(folder / "certs" / "dev.crt")
        except BaseException:
            self.kill()
            raise

    # ---- The process ----

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])

    def signal(self, number: int = signal.SIGTERM) -> None:
        self.process.send_signal(number)

    def wait(self, seconds: float = 10) -> int:
        """Its exit code."""
        return self.process.wait(seconds)

    def stop(self) -> None:
        """Ends it, and holds it to what is true of every run."""
        if self.process.poll() is None:
            self.signal()
            try:
                self.wait(15)
            except subprocess.TimeoutExpired:
                self.kill()
                raise AssertionError("the server was still running 15 s after SIGTERM") from None
        self._reader.join(5)
        if self in Edge.running:
            Edge.running.remove(self)
        self.check_log()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.join(5)
        if self in Edge.running:
            Edge.running.remove(self)

    def check_log(self) -> None:
        text = "\n".join(self.log)
        assert "panicked" not in text, f"the server panicked:\n{text[-4000:]}"
        # A token without its signature would be harmless; the signature alone is what nobody may see.
        secrets = {secret.rpartition(".")[2] or secret for secret in self.secrets | {SECRET}}
        leaked = [line for line in self.log if any(secret in line for secret in secrets)]
        assert not leaked, f"tokens, tickets or secrets in the log: {leaked[:5]}"

    def _read_log(self) -> None:
        for line in self.process.stdout:
            self.log.append(ANSI.sub("", line.decode(errors="replace")).rstrip("\n"))

    def _wait_until_listening(self) -> tuple[str, str]:
        for _ in range(400):
            for line in self.log:
                if "listening" in line:
                    found = [pattern.search(line) for pattern in LISTENING.values()]
                    assert all(found), f"no addr= and admin= in: {line}"
                    return found[0][1], found[1][1]
            if self.process.poll() is not None:
                break
            time.sleep(0.05)
        raise AssertionError("the server did not start:\n" + "\n".join(self.log))

    def _wait_until_ready(self) -> None:
        for _ in range(100):
            if self.admin("/readyz").status_code == 200:
                return
            time.sleep(0.05)
        raise AssertionError("the server is not ready after 5 s:\n" + "\n".join(self.log))

    # ---- Where and as whom to connect ----

    def admin(self, path: str) -> httpx.Response:
        answer = httpx.get(f"http://{self.admin_address}{path}", trust_env=False)
        check_exchange(exchange_of(answer, answer.text), admin=True)
        return answer

    def url(self, path: str = "", scheme: str = "https") -> str:
        return f"{scheme}://{self.address}{path}"

    def http(self, http2: bool = False, **options) -> httpx.AsyncClient:
        """A client whose answers have all been held against docs/openapi.yaml."""
        options = {"timeout": 15, "event_hooks": {"response": [hold_answer]}} | options
        if "transport" not in options:
            options |= {"verify": self.certificate.trust, "http2": http2}
        return httpx.AsyncClient(base_url=self.url(), trust_env=False, **options)

    def claims(self, sub: str = "alice", ttl: float = 600, **claims) -> dict:
        """`None` leaves a claim out. Without `channels` everything is granted."""
        everything = {"join": ["*"], "send": ["*"]}
        claims = {
            "sub": sub,
            "exp": time.time() + ttl,
            "iss": ISSUER,
            "aud": AUDIENCE,
            "channels": everything,
            "jti": uuid.uuid4().hex,
        } | claims
        return {name: value for name, value in claims.items() if value is not None}

    def token(self, sub: str = "alice", ttl: float = 600, **claims) -> str:
        return self.sign(self.claims(sub, ttl, **claims))

    def sign(self, claims: dict, key=SECRET, algorithm: str = "HS256", **headers) -> str:
        return self.remember(jwt.encode(claims, key, algorithm, headers=headers or None))

    def remember(self, secret: str) -> str:
        self.secrets.add(secret)
        return secret


async def hold_answer(answer: httpx.Response) -> None:
    """The events of a stream are held one by one as they are read."""
    is_stream = answer.headers.get("Content-Type", "").startswith(EVENTS)
    check_exchange(exchange_of(answer, None if is_stream else (await answer.aread()).decode()))


def exchange_of(answer: httpx.Response, body: str | None) -> Exchange:
    request = answer.request
    try:
        asked = request.content.decode()
    except (httpx.RequestNotRead, UnicodeDecodeError):
        asked = None
    target, kind = request.url.raw_path.decode(), answer.headers.get("Content-Type")
    return Exchange(request.method, target, answer.status_code, kind, answer.headers, body, asked)


def end_with_parent() -> None:
    """A killed test run leaves no server behind (PR_SET_PDEATHSIG of prctl(2))."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
