"""The page at / in a real browser, driven over the DevTools protocol."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time

import pytest

websockets = pytest.importorskip("websockets.sync.client")
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed")


class Page:
    """One tab: runs JavaScript and collects what went wrong."""

    def __init__(self, socket):
        self._socket = socket
        self._number = 0
        self.problems = []
        for domain in ("Runtime.enable", "Log.enable", "Page.enable"):
            self.call(domain)

    def call(self, method, **params):
        self._number += 1
        self._socket.send(json.dumps({"id": self._number, "method": method, "params": params}))
        while True:
            message = json.loads(self._socket.recv(timeout=30))
            if message.get("id") == self._number:
                return message.get("result", message)
            if message.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded"):
                self.problems.append(message["params"])

    def value(self, code):
        result = self.call("Runtime.evaluate", expression=code, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def until(self, code, seconds=30):
        end = time.monotonic() + seconds
        while not self.value(code):
            assert time.monotonic() < end, (code, self.problems)
            time.sleep(0.05)


@pytest.fixture
def page(server, tmp_path):
    command = [
        BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
        "--remote-debugging-port=0", "--remote-allow-origins=*", f"--user-data-dir={tmp_path}", f"{server.url}/",
    ]  # fmt: skip
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        try:
            address = next(filter(None, (re.search(r"ws://\S+", line) for line in process.stderr))).group()
            with websockets.connect(address, max_size=None) as browser:
                yield from attached(browser, address)
        finally:
            process.kill()


def attached(browser, address):
    """The tab that shows our page."""
    end = time.monotonic() + 30
    while time.monotonic() < end:
        browser.send(json.dumps({"id": 1, "method": "Target.getTargets"}))
        targets = json.loads(browser.recv(timeout=30))["result"]["targetInfos"]
        found = [item for item in targets if item["type"] == "page" and item["url"].startswith("http://127")]
        if found:
            tab = re.sub("/devtools/browser/.*", f"/devtools/page/{found[0]['targetId']}", address)
            with websockets.connect(tab, max_size=None) as socket:
                page = Page(socket)
                page.until("document.readyState === 'complete' && document.getElementById('run') !== null")
                yield page
            return
        time.sleep(0.1)
    pytest.fail("the browser shows no page")


def run(page):
    page.value("document.getElementById('run').click()")
    page.until("!document.getElementById('run').disabled")
    return page.value("document.getElementById('answer').textContent")


def test_the_page_runs_a_constrained_prompt(page):
    page.until("document.getElementById('model').textContent !== ''")
    value = json.loads(run(page))
    assert set(value) == {"name", "city", "guests"}
    assert re.search(r"\d+ prompt tokens .* s$", page.value("document.getElementById('facts').textContent"))
    page.value("document.getElementById('kind').value = 'regex'")
    page.value("document.getElementById('constraint').value = '[0-9]{4}'")
    assert re.fullmatch("[0-9]{4}", run(page))
    assert page.problems == []


def test_the_page_shows_errors_and_stops(page):
    page.value("document.getElementById('kind').value = 'regex'")
    page.value("document.getElementById('constraint').value = '['")
    assert run(page) == ""
    assert "regex" in page.value("document.getElementById('facts').textContent")
    page.value("document.getElementById('constraint').value = '[a-z ]{2000,3000}'")
    page.value("document.getElementById('tokens').value = '3000'")
    page.value("document.getElementById('run').click()")
    page.until("document.getElementById('answer').textContent !== ''")
    page.value("document.getElementById('stop').click()")
    page.until("document.getElementById('facts').textContent === 'stopped'")
