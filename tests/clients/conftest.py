"""One engine and one server for all tests of this folder."""

from __future__ import annotations

import pytest

import sgl_runtime
from sgl_runtime.server.testing import LiveServer, wait_idle


@pytest.fixture(scope="session")
def engine():
    client = sgl_runtime.launch(threads=1, dtype="float32")  # answers do not depend on the batch
    yield client
    client.close()


@pytest.fixture(scope="session")
def live(engine):
    with LiveServer(engine) as running:
        yield running


@pytest.fixture
def server(live):
    yield live
    wait_idle(live.client)
