"""A small client of ComfyUI's HTTP API: post a prompt, follow it, fetch what it made. aiohttp comes with the host."""

from __future__ import annotations

import asyncio
import json
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import aiohttp

Listener = Callable[[str, dict], None]


class HostError(RuntimeError):
    """The host could not do what was asked; the message is a sentence with the host's own reason."""


class Refused(HostError):
    """`/prompt` answered that the prompt is not valid. node_errors: the host's dict, by node id."""

    def __init__(self, message: str, node_errors: dict | None = None):
        super().__init__(message)
        self.node_errors = node_errors or {}


@dataclass(frozen=True)
class Result:
    """What a prompt came to. status: "success", "error" or "interrupted"; outputs: the `ui` dicts by node id."""

    prompt_id: str
    status: str
    outputs: dict[str, dict] = field(default_factory=dict)
    error: str = ""
    error_node: str = ""
    seconds: float = 0.0

    def files(self, node: str | None = None) -> list[dict]:
        """All files of a node (or of all): dicts with filename, subfolder and type, as `/view` takes them."""
        chosen = self.outputs.values() if node is None else [self.outputs.get(str(node), {})]
        return [one for ui in chosen for made in ui.values() for one in _files_in(made)]

    def texts(self, node: str | None = None) -> list[str]:
        chosen = self.outputs.values() if node is None else [self.outputs.get(str(node), {})]
        return [str(one) for ui in chosen for one in ui.get("text", ())]


def _files_in(made: Any) -> list[dict]:
    entries = made if isinstance(made, (list, tuple)) else ()
    return [one for one in entries if isinstance(one, dict) and "filename" in one]


class Messages:
    """The host's messages over a websocket, read without an event loop of the caller's; use it in a `with` block."""

    def __init__(self, url: str):
        self._loop = asyncio.new_event_loop()
        try:
            self._loop.run_until_complete(self._connect(url))
        except BaseException:
            self._loop.close()
            raise

    async def _connect(self, url: str) -> None:
        self._session = aiohttp.ClientSession()
        try:
            # Previews have no greatest size.
            self._socket = await self._session.ws_connect(url, max_msg_size=0)
        except BaseException:
            await self._session.close()
            raise

    def __enter__(self) -> "Messages":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        async def end() -> None:
            await self._socket.close()
            await self._session.close()

        self._loop.run_until_complete(end())
        self._loop.close()

    def next(self, timeout: float) -> str | bytes | None:
        """The next message, text or binary; None where none came within `timeout` seconds.

        Raises ConnectionError where the host has closed the connection.
        """
        try:
            message = self._loop.run_until_complete(self._socket.receive(timeout))
        except TimeoutError:
            return None
        if message.type not in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY):
            raise ConnectionError("The host closed the connection.")
        return message.data

    def receive(self, timeout: float) -> str | None:
        """The next text message; binary ones (previews) are skipped. See `next`."""
        while isinstance(message := self.next(timeout), bytes):
            pass
        return message


class Client:
    """Talks to one running host. url: for example http://127.0.0.1:8188."""

    def __init__(self, url: str, alive: Callable[[], None] = lambda: None):
        self.url, self.alive = url.rstrip("/"), alive
        self.id = uuid.uuid4().hex
        self._object_info: dict[str, dict] = {}

    # Plain requests

    def request(self, path: str, data: bytes | None = None, kind: str = "application/json") -> bytes:
        """GET, or POST where there is data; the answer's bytes."""
        request = urllib.request.Request(self.url + path, data=data, headers={"Content-Type": kind})
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                return answer.read()
        except urllib.error.HTTPError:
            raise
        except OSError as error:
            self.alive()
            raise HostError(f"The host at {self.url} does not answer ({error}).") from error

    def json(self, path: str, body: Any = None) -> Any:
        answer = self.request(path, None if body is None else json.dumps(body).encode())
        return json.loads(answer) if answer else None

    def object_info(self) -> dict[str, dict]:
        """The host's description of all nodes; asked once."""
        if not self._object_info:
            self._object_info = self.json("/object_info")
        return self._object_info

    def interrupt(self) -> None:
        self.json("/interrupt", {})

    def free(self) -> None:
        """Empties the host's cache and unloads its models; what is posted next is computed anew."""
        self.json("/free", {"unload_models": True, "free_memory": True})
        # The host does it between two prompts, and a prompt that comes at once would be first: this one is it.
        self.wait(self.post({"1": {"class_type": "PreviewAny", "inputs": {"source": "free"}}}))

    def view(self, file: dict) -> bytes:
        """The bytes of a file that a result names."""
        keys = {key: file.get(key, "") for key in ("filename", "subfolder", "type")}
        return self.request("/view?" + urllib.parse.urlencode(keys))

    def upload(self, path: Path, name: str | None = None) -> str:
        """Puts a picture into the host's input folder; returns the name that Load Image takes."""
        line, name = uuid.uuid4().hex, name or Path(path).name
        head = f'--{line}\r\nContent-Disposition: form-data; name="image"; filename="{name}"\r\n'
        tail = f'\r\n--{line}\r\nContent-Disposition: form-data; name="overwrite"\r\n\r\ntrue\r\n--{line}--\r\n'
        head += "Content-Type: application/octet-stream\r\n\r\n"
        data = head.encode() + Path(path).read_bytes() + tail.encode()
        answer = self.request("/upload/image", data, f"multipart/form-data; boundary={line}")
        return json.loads(answer)["name"]

    # Prompts

    def post(self, prompt: dict, extra_data: dict | None = None) -> str:
        """Queues a prompt and returns its id; one that the host finds invalid raises `Refused`."""
        # The host's node replacement stumbles over nodes without a title.
        nodes = {key: {"_meta": {"title": node["class_type"]}, **node} for key, node in prompt.items()}
        body = {"prompt": nodes, "client_id": self.id, "extra_data": extra_data or {}}
        try:
            answer = self.json("/prompt", body)
        except urllib.error.HTTPError as error:
            raise _refusal(error.read().decode("utf-8", "replace")) from None
        if answer.get("node_errors"):
            raise _refusal(json.dumps(answer))
        return answer["prompt_id"]

    def wait(self, prompt_id: str, timeout: float = 600.0) -> Result:
        """Polls until the prompt has ended; past the timeout (seconds) it is interrupted and `HostError` raised."""
        start = time.monotonic()
        while time.monotonic() - start < timeout:
            entry = self.json(f"/history/{prompt_id}").get(prompt_id)
            if entry and entry.get("status", {}).get("status_str"):
                return _result(prompt_id, entry)
            time.sleep(0.05)
        self.interrupt()
        raise HostError(f"The prompt did not end within {timeout:.0f} seconds and was interrupted.")

    def run(self, prompt: dict, timeout: float = 600.0, listener: Listener | None = None) -> Result:
        """Posts and waits. listener(event, data): gets the host's progress messages while it runs."""
        start = time.monotonic()
        if listener is None:
            result = self.wait(self.post(prompt), timeout)
        else:
            with self.listen() as messages:
                prompt_id = self.post(prompt)
                self._follow(messages, prompt_id, listener, timeout)
            result = self.wait(prompt_id, max(timeout - (time.monotonic() - start), 1.0))
        return replace(result, seconds=time.monotonic() - start)

    def listen(self) -> Messages:
        """A connection that gets the messages of the prompts posted from now on."""
        # Each has an id of its own: the host forgets a closed one by its id, perhaps only after the next has come.
        self.id = uuid.uuid4().hex
        return Messages(f"{self.url}/ws?clientId={self.id}")

    def _follow(self, messages: Messages, prompt_id: str, listener: Listener, timeout: float) -> None:
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            try:
                text = messages.receive(timeout=5.0)
            except ConnectionError:
                return self.alive()
            if text is None:
                self.alive()
                if self.json(f"/history/{prompt_id}").get(prompt_id):
                    return
                continue
            message = json.loads(text)
            data = message.get("data") or {}
            if data.get("prompt_id") != prompt_id:
                continue
            listener(message["type"], data)
            if message["type"] in ("execution_success", "execution_error", "execution_interrupted"):
                return


def _refusal(text: str) -> Refused:
    """The host's 400 answer as a sentence that names nodes and inputs."""
    try:
        answer = json.loads(text)
    except ValueError:
        return Refused(f"The host refused the prompt: {text.strip()[:300]}")
    parts = []
    for node, entry in (answer.get("node_errors") or {}).items():
        for one in entry.get("errors", ()):
            parts.append(f"node {node} ({entry.get('class_type')}): {one.get('message')}: {one.get('details')}")
    general = (answer.get("error") or {}).get("message", "")
    return Refused("The host refused the prompt: " + ("; ".join(parts) or general), answer.get("node_errors"))


def _result(prompt_id: str, entry: dict) -> Result:
    status, error, node = entry["status"]["status_str"], "", ""
    for kind, data in entry["status"].get("messages", ()):
        if kind == "execution_error":
            node, error = str(data.get("node_id", "")), str(data.get("exception_message", "")).strip()
        if kind == "execution_interrupted":
            status, node = "interrupted", str(data.get("node_id", ""))
    return Result(prompt_id, status, entry.get("outputs", {}), error, node)
