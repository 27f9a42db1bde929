"""A headless Chromium, if the machine has one, which a test drives over the DevTools protocol."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import websocket

from tests.tools import PATIENCE, wait_for

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
NEEDS_BROWSER = pytest.mark.skipif(not CHROMIUM, reason="no Chromium is on the PATH")
OPTIONS = ["--headless", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking"]
# Chromium's sandbox does not start as root, as which CI may run. The pages are the project's own.
OPTIONS += ["--no-sandbox"] if os.geteuid() == 0 else []


class Page:
    """A tab of the browser, with its requests and the messages of its console."""

    def __init__(self, address: str) -> None:
        """Connect to the tab's address in the DevTools."""
        self._connection = websocket.create_connection(address, timeout=PATIENCE, suppress_origin=True)
        self._sent = 0
        self.requested: list[str] = []
        """The URLs of all requests."""
        self.complaints: list[str] = []
        """The messages of the console: exceptions, and violations of the pages' policy."""
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **parameters: Any) -> Any:
        """Send a command and return its result."""
        self._sent += 1
        self._connection.send(json.dumps({"id": self._sent, "method": method, "params": parameters}))
        while (message := json.loads(self._connection.recv())).get("id") != self._sent:
            self._note(message)
        assert "error" not in message, message
        return message["result"]

    def _note(self, event: dict[str, Any]) -> None:
        if event["method"] == "Network.requestWillBeSent":
            self.requested.append(event["params"]["request"]["url"])
        elif event["method"] in ("Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled"):
            self.complaints.append(json.dumps(event["params"]))

    def read(self, expression: str) -> Any:
        """Return the value of a JavaScript expression."""
        result = self.send("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def wait_for(self, expression: str) -> Any:
        """Wait until a JavaScript expression has a value that counts as true, and return it."""
        wait_for(lambda: self.read(expression))
        return self.read(expression)

    def open(self, url: str, width: int = 1280) -> None:
        """Open a page in a window of this width, and wait until the page and all its files have loaded."""
        self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600
        )
        self.send("Page.navigate", url=url)
        self.wait_for(f"location.href == {json.dumps(url)} && document.readyState == 'complete'")

    def press(self, key: str, code: int, text: str = "") -> None:
        """Press and release a key."""
        for kind in ("keyDown", "keyUp"):
            self.send("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code, text=text)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


@contextlib.contextmanager
def open_browser() -> Iterator[Page]:
    """Run the browser for the length of the block, and give its first tab."""
    with TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        command = [str(CHROMIUM), *OPTIONS, f"--user-data-dir={folder}", "--remote-debugging-port=0", "about:blank"]
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        try:
            active = Path(folder, "DevToolsActivePort")
            wait_for(lambda: active.exists() and active.read_text().count("\n"))
            with urllib.request.urlopen(f"http://127.0.0.1:{active.read_text().split()[0]}/json") as response:
                tab = next(found for found in json.load(response) if found["type"] == "page")
            with contextlib.closing(Page(tab["webSocketDebuggerUrl"])) as page:
                yield page
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
