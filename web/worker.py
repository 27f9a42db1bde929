"""The worker that gunicorn runs: uvicorn's event loop and parser, and a graceful end that drops no request.

On SIGTERM gunicorn's master marks the service as draining and passes the signal on. From then on health is 503 and each
response closes its connection; a load balancer has ``drain_seconds`` to notice. Then the worker takes the connections
that the kernel has accepted already, stops listening, answers what comes on open connections, and ends.
"""

import asyncio
import contextlib
import ctypes
import os
import signal
import socket
import struct
import sys
from types import FrameType
from typing import Any

from gunicorn.arbiter import Arbiter
from uvicorn import Config, Server
from uvicorn_worker import UvicornWorker

from web.buffering import BufferingApp
from web.health import Health
from web.protocol import Protocol

LINGER_SECONDS = 1.0
"""How long an open connection may take to send a request after the worker has stopped listening."""
TICK_SECONDS = 0.05
"""How often the end checks whether a connection is still open."""


# Not in Python's module socket: Linux's numbers of the option, and of the instruction that keeps no byte of a packet.
SO_ATTACH_FILTER, RETURN = 26, 0x06


def ignore_new_clients(listening: socket.socket) -> None:
    """Let the kernel drop what new clients send: it completes no further connection, and these clients try again.

    Only Linux has this. Elsewhere, a connection that is made in the moment before the socket is shut down is lost.
    """
    if sys.platform == "linux":
        program = ctypes.create_string_buffer(struct.pack("HBBI", RETURN, 0, 0, 0))
        with contextlib.suppress(OSError):
            listening.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HP", 1, ctypes.addressof(program)))


class DrainingServer(Server):
    """A server that ends without dropping a request."""

    def __init__(self, config: Config, health: Health, master: int) -> None:
        """If ``health`` is draining when the server stops, it drains for ``drain_seconds`` first.

        The server also stops when the process ``master`` has ended.
        """
        super().__init__(config)
        self._health = health
        self._waits = True
        self._master = master

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """End soon; at once after Ctrl-C or SIGQUIT."""
        self._waits = sig == signal.SIGTERM
        super().handle_exit(sig, frame)

    async def on_tick(self, counter: int) -> bool:
        """Return whether to end: also if the master was killed, because nobody would end this worker any more."""
        return await super().on_tick(counter) or os.getppid() != self._master

    def is_closing(self) -> bool:
        """Return whether responses close their connections."""
        return self.should_exit or self._health.is_draining

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Drain, stop listening, answer what is open, and end."""
        # It is not set yet if the master was killed, or after gunicorn's max_requests.
        self.should_exit = True
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
            if self._health.is_draining:
                ignore_new_clients(listening)
            with contextlib.suppress(OSError):
                while True:
                    accepted.append(listening.accept()[0])
            if self._health.is_draining:
                # The event loop closes the socket a moment later. This stops all workers from listening, so it is only
                # done if the whole service ends.
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
        server = DrainingServer(self.config, self.wsgi.extensions["health"], self.ppid)
        self.config.app = BufferingApp(self.wsgi, server.is_closing)
        # gunicorn's master sends SIGQUIT to its workers when it gets SIGINT.
        asyncio.get_running_loop().add_signal_handler(signal.SIGQUIT, server.handle_exit, signal.SIGINT, None)
        await server.serve(sockets=self.sockets)
        if not server.started:
            sys.exit(Arbiter.WORKER_BOOT_ERROR)
