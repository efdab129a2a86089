"""Enough of RFC 6455 to listen to ComfyUI's messages with the standard library."""

from __future__ import annotations

import base64
import os
import socket
import struct
import urllib.parse

TEXT, CLOSE, PING, PONG = 1, 8, 9, 10


class WebSocketClosed(ConnectionError):
    """The other side has gone."""


class WebSocket:
    """A client's connection; `receive` gives text messages and skips binary ones (the previews)."""

    def __init__(self, url: str, timeout: float = 30.0):
        parts = urllib.parse.urlsplit(url)
        self.buffer = b""
        self.socket = socket.create_connection((parts.hostname, parts.port or 80), timeout)
        key = base64.b64encode(os.urandom(16)).decode()
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self.socket.sendall(
            f"GET {path} HTTP/1.1\r\nHost: {parts.netloc}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        while b"\r\n\r\n" not in self.buffer:
            self._read()
        head, self.buffer = self.buffer.split(b"\r\n\r\n", 1)
        if b" 101 " not in head.split(b"\r\n", 1)[0]:
            self.socket.close()
            raise WebSocketClosed(f"{url} did not open a websocket: {head[:80]!r}.")

    def __enter__(self) -> "WebSocket":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        try:
            self._send(CLOSE, b"")
        except OSError:
            pass  # the other side has gone first
        self.socket.close()

    def receive(self, timeout: float) -> str | None:
        """The next text message, None where none came within `timeout` seconds."""
        self.socket.settimeout(timeout)
        message = b""
        while True:
            try:
                final, kind, payload = self._frame()
            except TimeoutError:
                return None
            if kind == CLOSE:
                raise WebSocketClosed("The host closed the connection.")
            if kind == PING:
                self._send(PONG, payload)
            if kind == TEXT or (kind == 0 and message):
                message += payload
                if final:
                    return message.decode("utf-8", "replace")

    def _frame(self) -> tuple[bool, int, bytes]:
        """One whole frame; on a timeout what has come so far stays in the buffer."""
        size, start = self._need(2)[1] & 127, 2
        if size >= 126:
            width = 2 if size == 126 else 8
            (size,) = struct.unpack(">H" if width == 2 else ">Q", self._need(2 + width)[2 : 2 + width])
            start += width
        frame = self._need(start + size)
        self.buffer = self.buffer[start + size :]
        return bool(frame[0] & 128), frame[0] & 15, frame[start : start + size]

    def _need(self, count: int) -> bytes:
        while len(self.buffer) < count:
            self._read()
        return self.buffer[:count]

    def _read(self) -> None:
        more = self.socket.recv(1 << 16)
        if not more:
            raise WebSocketClosed("The host closed the connection.")
        self.buffer += more

    def _send(self, kind: int, payload: bytes) -> None:
        mask = os.urandom(4)
        body = bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))
        self.socket.sendall(struct.pack(">BB", 128 | kind, 128 | len(payload)) + mask + body)
