"""Connections: limits of time, with short ones in a server in this process, and the moment before the port closes."""

import asyncio
import socket
import sys

import pytest
from uvicorn import Config
from uvicorn.server import ServerState

from tests.tools import PATIENCE
from tests.web.servers import HOST
from web import protocol
from web.buffering import Send
from web.protocol import Protocol
from web.worker import ignore_new_clients

LARGE = bytes(16_000_000)
"""More than the kernel keeps for a client that does not read."""


async def answer(_: object, __: object, send: Send) -> None:
    """Answer with a large body."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": LARGE})


async def wait_for_the_end(sent: bytes) -> None:
    """Send something, read nothing, and wait until the server has no connection any more."""
    loop, state = asyncio.get_running_loop(), ServerState()
    config = Config(answer, log_config=None, ws="none", timeout_keep_alive=1)
    server = await loop.create_server(lambda: Protocol(config, state, {}), HOST, 0)
    with socket.create_connection(server.sockets[0].getsockname()) as client:
        client.sendall(sent)
        async with asyncio.timeout(PATIENCE):
            while not state.connections:
                await asyncio.sleep(0.01)
            while state.connections:
                await asyncio.sleep(0.01)
    server.close()


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"\r\n", id="an empty line"),
        pytest.param(b"GET / HTTP/1.1\r\n", id="half a head"),
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", id="a request, without reading the answer"),
    ],
)
def test_a_connection_ends_without_its_client(sent: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise clients could use up memory and file descriptors."""
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.1)
    monkeypatch.setattr(protocol, "READ_SECONDS", 0.1)
    asyncio.run(wait_for_the_end(sent))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can do it")
def test_connections_are_taken_or_not_made() -> None:
    """A connection that is made between the last look and the end of listening would be lost with its request."""
    with socket.create_server((HOST, 0)) as listening, socket.create_connection(listening.getsockname()):
        ignore_new_clients(listening)
        with pytest.raises(TimeoutError):
            socket.create_connection(listening.getsockname(), timeout=0.1)
        assert listening.accept()
        listening.setblocking(False)
        with pytest.raises(BlockingIOError):
            listening.accept()
