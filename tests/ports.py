"""Ports and servers of tests: a free one, a server that never answers, and one that answers with a page."""

import socket
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def silent_server() -> Iterator[int]:
    """The port of a server that accepts connections and never answers."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield int(server.getsockname()[1])


@contextmanager
def page_server(
    status: int = 200, page: bytes = b"<html>welcome</html>", to_writers: int = 400, password: str | None = None
) -> Iterator[int]:
    """The port of a server that answers every request with a page and this status.

    It answers POST with the status `to_writers`, and only those who send `password`, if there is one.
    """

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._reply(status)

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"] or 0))
            self._reply(to_writers)

        def _reply(self, status: int) -> None:
            user = b64encode(f"user:{password}".encode()).decode()
            known = password is None or self.headers["Authorization"] == f"Basic {user}"
            self.send_response(status if known else 401)
            self.end_headers()
            self.wfile.write(page if known else b"<html>who are you?</html>")

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Page) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
