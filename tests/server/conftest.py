"""One engine and one server for all tests of this folder."""

from __future__ import annotations

import httpx
import pytest

import sgl_runtime
from sgl_runtime.server.testing import LiveServer, wait_idle


@pytest.fixture(scope="session")
def engine():
    client = sgl_runtime.launch(threads=1, dtype="float32")  # answers do not depend on the batch
    yield client
    client.close()


@pytest.fixture(scope="session")
def server(engine):
    with LiveServer(engine) as live:
        yield live


@pytest.fixture
def http(server):
    with httpx.Client(base_url=server.url, timeout=60) as client:
        yield client
    wait_idle(server.client)
