"""An HTTP server of this process, on a free loopback port: a thread for each connection, and its end waits for all.

The servers of ``scripts.localaws.server`` have processes of their own.
"""

import contextlib
import socket
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from scripts.localaws.server import HOST


class LoopbackServer(ThreadingHTTPServer):
    """The server. At its end, it closes every connection, even if the thread of a connection still waits."""

    request_queue_size = 128
    """The queue of new connections. With the default, 5, clients wait a second if many connect at once."""

    # ``server_close`` must wait for these threads: nothing may reach the local AWS after it.
    daemon_threads = False

    def __init__(self, handler: type[BaseHTTPRequestHandler]) -> None:
        """Listen on a free port."""
        self.closing = threading.Event()
        self._connections: set[Any] = set()
        super().__init__((HOST, 0), handler)

    @property
    def url(self) -> str:
        """Return the server's URL."""
        return f"http://{HOST}:{self.server_port}"

    @contextlib.contextmanager
    def running(self) -> Iterator[Self]:
        """Serve for the length of the block."""
        with self:
            thread = threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True)
            thread.start()
            try:
                yield self
            finally:
                self.shutdown()
                thread.join()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve a connection in a thread, and remember it for ``server_close``."""
        self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Close a connection when its thread is done."""
        self._connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print an error. A client that has gone is not an error."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)

    def server_close(self) -> None:
        """Close all connections, including those that clients keep open, and wait for the threads."""
        self.closing.set()
        for connection in list(self._connections):
            with contextlib.suppress(OSError):  # the client has closed it
                connection.shutdown(socket.SHUT_RDWR)
        super().server_close()
