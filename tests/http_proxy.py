"""An HTTP proxy that knows CONNECT, and ones that misbehave."""

from __future__ import annotations

import base64
import contextlib
import socket
import threading


class HttpProxy:
    """Listens on loopback; connects whoever asks, if the login is the right one.

    Args:
        login: "user:password" that it wants, if any. answer: bytes to say to every request in place of connecting.

    Attributes:
        asked: heads of the requests so far. passed: bytes that it passed on, either way, as they stood on the line.
    """

    def __init__(self, login: str = "", answer: bytes | None = None) -> None:
        self.asked: list[str] = []
        self.passed = bytearray()
        self._login = login
        self._answer = answer
        self._open: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._listener.close()
        for each in self._open:
            each.close()

    def _serve(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            self._open.append(near)
            threading.Thread(target=self._take, args=(near,), daemon=True).start()

    def _take(self, near: socket.socket) -> None:
        with contextlib.suppress(OSError):
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                head += near.recv(1)
            self.asked.append(head.decode())
            if self._answer is not None:
                near.sendall(self._answer)
                near.shutdown(socket.SHUT_WR)
                near.recv(1)
                near.close()
                return
            expected = f"proxy-authorization: basic {base64.b64encode(self._login.encode()).decode()}".lower()
            if self._login and expected not in head.decode().lower():
                near.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic\r\n\r\n")
                near.close()
                return
            host, _, port = head.split()[1].decode().rpartition(":")
            try:
                far = socket.create_connection((host.strip("[]"), int(port)), timeout=10)
            except OSError:
                near.sendall(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
                near.close()
                return
            far.settimeout(None)
            self._open.append(far)
            near.sendall(b"HTTP/1.1 200 Connection established\r\nVia: tests\r\n\r\n")
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self._pass, args=(source, sink), daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(2**16):
                self.passed += data
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
