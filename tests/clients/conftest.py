"""Black-box tests of the running server with clients that anybody can install.

`edge` is one server per worker, for whatever needs no settings of its own; `start` starts others.
"""

import uuid
from collections.abc import Callable, Iterator

import pytest

from edge import Certificate, Edge, configuration

LOG_LINES_SHOWN = 60


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def certificate(tmp_path_factory) -> Certificate:
    return Certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture(scope="session")
def edge(certificate, tmp_path_factory) -> Iterator[Edge]:
    edge = Edge(certificate, tmp_path_factory.mktemp("edge"), configuration(certificate))
    yield edge
    edge.stop()


@pytest.fixture
def start(certificate, tmp_path_factory) -> Iterator[Callable[..., Edge]]:
    """Starts a server with changed settings, such as `quota={"connections_per_ip": 2}`, or in development mode."""
    started: list[Edge] = []

    def start(development: bool = False, at: str = "127.0.0.1:0", **changes: dict) -> Edge:
        sections = None if development else configuration(certificate, **changes)
        started.append(Edge(certificate, tmp_path_factory.mktemp("edge"), sections, at))
        return started[-1]

    yield start
    problems = []
    for edge in started:
        try:
            edge.stop()
        except AssertionError as problem:
            problems.append(str(problem))
    assert not problems, "\n".join(problems)


@pytest.fixture
def room() -> str:
    """A channel that no other test uses."""
    return f"chat:{uuid.uuid4().hex}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if report.failed:
        for edge in Edge.running:
            tail = "\n".join(edge.log[-LOG_LINES_SHOWN:])
            report.sections.append((f"the server's log ({edge.address if hasattr(edge, 'address') else '?'})", tail))
    return report
