"""A connection of the worker: uvicorn's, with limits, and with answers for clients that uvicorn leaves without one."""

import asyncio

import httptools
import msgspec
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from web.problems import PROBLEM_JSON, make_problem

HEAD_SECONDS = 15.0
"""How long a client may take to send the head of a request."""
READ_SECONDS = 30.0
"""How long a client may take to read an answer that is too large for the kernel's buffers."""
MAX_HEAD_BYTES = 65_536
"""The size of a request's head. What comes with its first byte, in one piece, is not counted."""
MAX_REQUEST_BYTES = 16 * 1_048_576
"""The size of a whole request. The parser would keep a chunked body's trailers, however large they are."""


class Protocol(HttpToolsProtocol):
    """A connection that is closed if its client sends no request, is too slow, or sends too much."""

    _head: asyncio.TimerHandle | None = None
    """Set while the head of a request comes."""
    _unread: asyncio.TimerHandle | None = None
    """Set while the client does not read its answer."""
    _size = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait as long for the first request as for later ones."""
        super().connection_made(transport)
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def data_received(self, data: bytes) -> None:
        """Begin to answer the requests in the data."""
        self._size += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as offer:
            self._decline(data[offer.args[0] :])
        except httptools.HttpParserError:
            if not self._end_after_answer():
                self._refuse(400, "the request is not HTTP/1.1, or its head or a chunk is broken")
        else:
            if self._head and self._size > MAX_HEAD_BYTES:
                self._refuse(431, f"the path and the headers have more than {MAX_HEAD_BYTES:,} bytes: send fewer")
            elif self._size > MAX_REQUEST_BYTES:
                self._refuse(413, f"the request has more than {MAX_REQUEST_BYTES:,} bytes: send fewer rides")

    def on_message_begin(self) -> None:
        """Give the head of a request its time. Empty lines before it do not count as its begin."""
        self._unset_keepalive_if_required()
        super().on_message_begin()
        self._size = 0
        self._head = self.loop.call_later(HEAD_SECONDS, self.timeout_keep_alive_handler)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header, but no trailer: after the body, one could replace what a proxy has checked."""
        if self._head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Begin to answer the request."""
        if self._head:
            self._head.cancel()
            self._head = None
        if not self.parser.should_upgrade():
            super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Note that the body is complete."""
        if not self.parser.should_upgrade():
            super().on_message_complete()

    def eof_received(self) -> bool:  # type: ignore[override]
        """Answer a client that has sent all that it will send, and then close the connection."""
        return self._end_after_answer()

    def pause_writing(self) -> None:
        """Give the client time to read."""
        super().pause_writing()
        self._unread = self.loop.call_later(READ_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """Go on when the client has read."""
        super().resume_writing()
        if self._unread:
            self._unread.cancel()

    def timeout_keep_alive_handler(self) -> None:
        """Close the connection, even if the client has not read its last answer."""
        self.transport.abort()

    def _end_after_answer(self) -> bool:
        """Return whether there is a complete request to answer. Its answer then closes the connection."""
        if self.cycle is None or self.cycle.response_complete or self.cycle.more_body:
            return False
        self.cycle.keep_alive = False
        return True

    def _decline(self, rest: bytes) -> None:
        """Read a request again without its offer to change the protocol, for which the parser has left out the body.

        Java's HTTP client offers HTTP/2 with each first request.
        """
        method = self.parser.get_method()
        if method == b"CONNECT":
            self._refuse(400, "the service is not a proxy, and takes no CONNECT")
            return
        lines = [b"%b %b HTTP/%b" % (method, self.url, self.parser.get_http_version().encode())]
        lines += [b"%b: %b" % header for header in self.headers if header[0] != b"upgrade"]
        self.parser = httptools.HttpRequestParser(self)
        self.data_received(b"\r\n".join([*lines, b"", rest]))

    def _refuse(self, status: int, detail: str) -> None:
        """Answer with a problem, and close the connection."""
        body = msgspec.json.encode(make_problem(status, detail))
        headers = [
            *self.server_state.default_headers,
            (b"content-type", PROBLEM_JSON.encode()),
            (b"content-length", b"%d" % len(body)),
            (b"connection", b"close"),
        ]
        lines = [b"%b: %b\r\n" % header for header in headers]
        self.transport.write(b"".join([STATUS_LINE[status], *lines, b"\r\n", body]))
        self.transport.close()
