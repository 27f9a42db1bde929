"""The live page's server: the page, its snapshots as server-sent events, and its switches.

Other pages in the same browser can send requests to a loopback port too. So a request must name this server as its host
(a name of theirs may resolve to 127.0.0.1), and a switch must be used from the page itself.
"""

import base64
import contextlib
import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import unquote

import msgspec

from scripts.live.collector import Collector
from scripts.localaws.consumers import RunningConsumer
from scripts.localaws.faults import Switch
from scripts.localaws.loopback import LoopbackServer
from scripts.localaws.setup import LocalStack
from scripts.sources.records import RideRecord

PAGE = Path(__file__).with_name("page.html")
SEND_SECONDS = 10
"""A tab that takes nothing for this number of seconds is gone, and so is a connection that sends no request."""
MAX_BODY_BYTES = 100


class _Position(msgspec.Struct):
    """The body of a request that uses a switch."""

    on: bool


class PageServer(LoopbackServer):
    """The server of the live page."""

    def __init__(self, collector: Collector) -> None:
        """Listen on a free port."""
        self.collector = collector
        super().__init__(_Handler)
        # Chromium resolves localhost to the same address. A page has the host in its origin.
        self.hosts = {f"{name}:{self.server_port}" for name in ("127.0.0.1", "localhost")}


@contextlib.contextmanager
def serve(
    local: LocalStack, consumers: Sequence[RunningConsumer], known: Sequence[Iterable[RideRecord]], chaos: Switch
) -> Iterator[str]:
    """Serve the page for the length of the block, and give its URL.

    ``known`` has records for each consumer, with the true values of what it predicts, if any is known.
    """
    collector = Collector(local, consumers, known, chaos)
    # The collector ends first: its end ends the threads that wait for snapshots.
    with PageServer(collector).running() as server, collector.running():
        yield f"{server.url}/"


def read_page() -> tuple[bytes, str]:
    """Return the page, and the policy that allows its own script and style alone, by their digests."""
    page = PAGE.read_text()
    script, style = (
        base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        for tag in ("script", "style")
        for text in re.findall(f"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
    )
    policy = f"default-src 'none'; script-src 'sha256-{script}'; style-src 'sha256-{style}'; connect-src 'self'"
    return page.encode(), f"{policy}; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"


class _Handler(BaseHTTPRequestHandler):
    server: PageServer
    timeout = SEND_SECONDS

    def do_GET(self) -> None:
        """Answer with the page, or with snapshots until one side ends."""
        if self._is_foreign():
            return
        if self.path == "/":
            page, policy = read_page()
            self._answer(200, page, "text/html; charset=utf-8", {"Content-Security-Policy": policy})
        elif self.path == "/events":
            self._send_snapshots()
        else:
            self._answer(404)

    def do_POST(self) -> None:
        """Use a switch."""
        if self._is_foreign():
            return
        # Browsers name the page that a request comes from; no other program needs the switches.
        if self.headers.get("Origin") != f"http://{self.headers['Host']}":
            self._answer(403, b"only the live page uses its switches: name its origin, http://HOST:PORT, as Origin\n")
            return
        length = self.headers.get("Content-Length", "")
        try:
            # Python refuses to convert a number of thousands of digits, with a ValueError too.
            body = self.rfile.read(int(length)) if length.isdecimal() and int(length) <= MAX_BODY_BYTES else b""
            position = msgspec.json.decode(body, type=_Position)
        except ValueError as error:
            self._answer(400, f'a switch takes {{"on": true}} or {{"on": false}}: {error}\n'.encode())
            return
        self._answer(204 if self._use_switch(unquote(self.path), is_on=position.on) else 404)

    def _use_switch(self, path: str, *, is_on: bool) -> bool:
        """Use the switch with this path, and return whether there is one."""
        collector = self.server.collector
        kind, _, name = path.removeprefix("/").partition("/")
        if path == "/chaos":
            collector.chaos.is_on = is_on
        elif kind == "consumers" and name in collector.consumers:
            consumer = collector.consumers[name]
            (consumer.resume if is_on else consumer.pause)()
        else:
            return False
        collector.hurry()
        return True

    def _is_foreign(self) -> bool:
        """Refuse a request that names another host, and return whether it does."""
        if self.headers.get("Host") in self.server.hosts:
            return False
        self._answer(403, b"the live page is at the address that ./scripts/run --serve prints\n")
        return True

    def _send_snapshots(self) -> None:
        self.send_response_only(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        # A tab that has gone is noticed when the next snapshot is sent to it.
        with contextlib.suppress(OSError), contextlib.closing(self.server.collector.snapshots()) as snapshots:
            self.wfile.write(b"retry: 1000\n\n")
            for snapshot in snapshots:
                self.wfile.write(b"data: " + snapshot + b"\n\n")

    def _answer(
        self, status: int, body: bytes = b"", content_type: str = "text/plain", headers: Mapping[str, str] | None = None
    ) -> None:
        self.send_response_only(status)
        shared = {"Content-Type": content_type, "Content-Length": str(len(body)), "Cache-Control": "no-store"}
        for name, value in (shared | {"X-Content-Type-Options": "nosniff"} | dict(headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Log nothing: the terminal belongs to the run."""
