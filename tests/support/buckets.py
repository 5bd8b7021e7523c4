"""An object store of moto's on this machine, behind a door that loses answers and gives others."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import urllib.request
from collections.abc import Callable, Generator, Iterable
from typing import Any

import pytest

KEYS = {
    "AWS_ACCESS_KEY_ID": "AKIACANARYOFTESTS",
    "AWS_SECRET_ACCESS_KEY": "canary/of/secrets+of+tests",
    "AWS_SESSION_TOKEN": "canary-token-of-tests",
}
CUT = "cut"
"""The request is done, and its answer never arrives."""
Fault = Callable[[str, str], str | None]
"""What is done to a request, by its method and path: nothing, CUT, or an answer as `403 AccessDenied`."""


class Server:
    """A bucket `bkt` at `url`; `seen` are the requests, as `PUT /bkt/name`, and `fault` what is done to them."""

    def __init__(self) -> None:
        from moto.server import DomainDispatcherApplication, create_backend_app
        from werkzeug.serving import make_server

        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self.app = DomainDispatcherApplication(create_backend_app)
        self.fault: Fault = lambda method, path: None
        self.seen = list[str]()
        self.server = make_server("127.0.0.1", 0, self._respond, threaded=True)
        self.url = f"http://127.0.0.1:{self.server.port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def _respond(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        fault = self.fault(method, path)
        self.seen.append(f"{method} {path}")
        if fault is None:
            return self.app(environ, start)
        if fault == CUT:
            list(self.app(environ, lambda *_: lambda _: None))
            environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
            start("200 OK", [])
            return []
        environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        status, _, code = fault.partition(" ")
        start(f"{status} {code}", [("Content-Type", "application/xml")])
        told = "".join(f"<{name}>{value}</{name}>" for name, value in KEYS.items())  # as some stores do
        return [] if method == "HEAD" else [f"<Error><Code>{code}</Code>{told}</Error>".encode()]

    @contextlib.contextmanager
    def failing(self, fault: Fault) -> Generator[None]:
        """Within this context requests fail so."""
        self.fault, before = fault, self.fault
        try:
            yield
        finally:
            self.fault = before


def first(count: int, then: str, methods: str = "PUT GET HEAD POST") -> Fault:
    """The first so many requests of these methods fail."""
    left = [count]

    def fault(method: str, path: str) -> str | None:
        if method not in methods.split() or not left[0]:
            return None
        left[0] -= 1
        return then

    return fault


@contextlib.contextmanager
def serving(patch: pytest.MonkeyPatch) -> Generator[Server]:
    """A server, and the variables by which it is found, with an empty bucket `bkt`."""
    pytest.importorskip("obstore", reason="the extra `cloud` is not installed")
    pytest.importorskip("moto", reason="the dependency group `test` is not installed")
    server = Server()
    for name, value in {**KEYS, "AWS_ENDPOINT_URL": server.url, "AWS_REGION": "us-east-1"}.items():
        patch.setenv(name, value)
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT"):
        patch.delenv(name, raising=False)
    urllib.request.urlopen(urllib.request.Request(f"{server.url}/bkt", method="PUT")).close()
    try:
        yield server
    finally:
        server.server.shutdown()
        server.server.server_close()
