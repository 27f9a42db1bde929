"""Connections of an AWS client that can be closed from another thread, which ends a request that would never end.

The SDK's timeouts limit a single read of a socket. A response that arrives byte by byte never runs into them, and the
SDK has no call that ends one request. So the connection classes of a client are replaced by classes of the same kind
that remember which thread uses them.
"""

import contextlib
import socket
import threading
from typing import Any, TypeVar, cast

Client = TypeVar("Client")

_thread = threading.local()


class UsedConnection:
    """The connection that the requests of one thread use."""

    def __init__(self) -> None:
        """Begin without a connection."""
        self._connection: Any = None
        self._is_closed = False

    def follow_this_thread(self) -> None:
        """Take each connection that a request of this thread uses from now on."""
        _thread.used = self

    def take(self, connection: Any) -> None:
        """Take a connection that is about to be used, or has just been opened."""
        self._connection = connection
        if self._is_closed:
            self.close()

    def close(self) -> None:
        """End the thread's request, from any thread: the next read or write fails."""
        self._is_closed = True
        # Not close(): it does not wake up a thread that reads. Not the method of an SSL socket: it would end encryption
        # first, while the other thread may be reading. A connection that is not open has no socket.
        with contextlib.suppress(AttributeError, OSError, TypeError):
            socket.socket.shutdown(self._connection.sock, socket.SHUT_RDWR)


class _Closable:
    """A connection that its thread's ``UsedConnection`` takes."""

    def connect(self) -> None:
        super().connect()  # type: ignore[misc]
        _hand_over(self)

    def request(self, *arguments: Any, **options: Any) -> None:
        _hand_over(self)
        super().request(*arguments, **options)  # type: ignore[misc]


def _hand_over(connection: _Closable) -> None:
    if used := getattr(_thread, "used", None):
        used.take(connection)


def make_closable(client: Client) -> Client:
    """Let ``UsedConnection`` close connections of this client, which has opened none yet; return the client."""
    # The SDK has no public place for this. All its connection pools, those of proxies too, come from this dictionary.
    pools: dict[str, Any] = cast(Any, client)._endpoint.http_session._pool_classes_by_scheme
    for scheme, pool in pools.items():
        connection = type(f"Closable{pool.ConnectionCls.__name__}", (_Closable, pool.ConnectionCls), {})
        pools[scheme] = type(f"Closable{pool.__name__}", (pool,), {"ConnectionCls": connection})
    return client
