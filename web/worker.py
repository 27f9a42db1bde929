"""The worker that gunicorn runs: uvicorn's event loop and parser, and a graceful end that drops no request.

On SIGTERM gunicorn's master marks the service as draining and passes the signal on. From then on health is 503 and each
response closes its connection; a load balancer has ``drain_seconds`` to notice. Then the worker takes the connections
that the kernel has accepted already, stops listening, answers what comes on open connections, and ends.
"""

import asyncio
import contextlib
import signal
import socket
import sys
from types import FrameType
from typing import Any

from gunicorn.arbiter import Arbiter
from uvicorn import Config, Server
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn_worker import UvicornWorker

from web.buffering import BufferingApp
from web.health import Health

HEAD_SECONDS = 15.0
"""How long a client may take to send the head of a request."""
LINGER_SECONDS = 1.0
"""How long an open connection may take to send a request after the worker has stopped listening."""
TICK_SECONDS = 0.05
"""How often the end checks whether a connection is still open."""


class Protocol(HttpToolsProtocol):
    """A connection that is closed if its client sends no request, or sends its head too slowly."""

    _head: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait as long for the first request as for later ones."""
        super().connection_made(transport)
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def on_message_begin(self) -> None:
        """Give the head of a request its time."""
        super().on_message_begin()
        self._head = self.loop.call_later(HEAD_SECONDS, self.timeout_keep_alive_handler)

    def on_headers_complete(self) -> None:
        """Begin to answer the request."""
        if self._head:
            self._head.cancel()
        super().on_headers_complete()


class DrainingServer(Server):
    """A server that ends without dropping a request."""

    def __init__(self, config: Config, health: Health) -> None:
        """If ``health`` is draining when the server stops, it drains for ``drain_seconds`` first."""
        super().__init__(config)
        self._health = health
        self._waits = True

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """End soon; at once after Ctrl-C or SIGQUIT."""
        self._waits = sig == signal.SIGTERM
        super().handle_exit(sig, frame)

    def is_closing(self) -> bool:
        """Return whether responses close their connections."""
        return self.should_exit or self._health.is_draining

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Drain, stop listening, answer what is open, and end."""
        if self._waits and self._health.is_draining:
            await asyncio.sleep(self._health.drain_seconds)
        await self._stop_listening(sockets or [])
        waiting = LINGER_SECONDS if self._waits else 0.0
        while self.server_state.connections and waiting > 0:
            await asyncio.sleep(TICK_SECONDS)
            waiting -= TICK_SECONDS
        # The sockets are not passed on, because they are closed already.
        await super().shutdown()

    async def _stop_listening(self, sockets: list[socket.socket]) -> None:
        """Take the connections that the kernel has accepted, because closing the listening socket would reset them."""
        accepted = []
        for listening in sockets:
            with contextlib.suppress(OSError):
                while True:
                    accepted.append(listening.accept()[0])
            if self._health.is_draining:
                # The event loop closes the socket a moment later, and another connection could come before. This
                # stops all workers from listening, so it is only done if the whole service ends.
                with contextlib.suppress(OSError):
                    listening.shutdown(socket.SHUT_RD)
        for server in self.servers:
            server.close()
        for connection in accepted:
            await asyncio.get_running_loop().connect_accepted_socket(self._make_protocol, connection)

    def _make_protocol(self) -> asyncio.Protocol:
        return Protocol(self.config, self.server_state, self.lifespan.state)


class Worker(UvicornWorker):  # type: ignore[misc]
    """A gunicorn worker for a Flask app that has its ``Health`` in ``app.extensions["health"]``."""

    CONFIG_KWARGS: dict[str, Any] = {  # noqa: RUF012  the base class has no ClassVar
        "http": Protocol,
        "ws": "none",
        "interface": "asgi3",
        "lifespan": "off",
        "access_log": False,
        "proxy_headers": False,
        "server_header": False,
    }

    async def _serve(self) -> None:
        server = DrainingServer(self.config, self.wsgi.extensions["health"])
        self.config.app = BufferingApp(self.wsgi, server.is_closing)
        # gunicorn's master sends SIGQUIT to its workers when it gets SIGINT.
        asyncio.get_running_loop().add_signal_handler(signal.SIGQUIT, server.handle_exit, signal.SIGINT, None)
        await server.serve(sockets=self.sockets)
        if not server.started:
            sys.exit(Arbiter.WORKER_BOOT_ERROR)
