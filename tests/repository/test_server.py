"""The headless host and its client, against the real ComfyUI."""

from __future__ import annotations

import base64
import hashlib
import re
import socket
import struct
import threading
from pathlib import Path

import pytest
from palimpsest.tools.client import HostError, Messages, Refused
from palimpsest.tools.inprocess import own_installation
from palimpsest.tools.places import Installation
from palimpsest.tools.server import Host, failed_imports, host_command
from palimpsest.tools.setup import make_base


def node(kind, **inputs):
    return {"class_type": kind, "inputs": inputs}


def chain(length: int, seed: int = 0) -> dict:
    """A prompt that is busy for a while: a picture blurred again and again."""
    prompt = {"0": node("EmptyImage", width=512, height=512, batch_size=1, color=seed)}
    for step in range(1, length):
        prompt[str(step)] = node("ImageBlur", image=[str(step - 1), 0], blur_radius=15, sigma=5.0)
    prompt["show"] = node("PreviewImage", images=[str(length - 1), 0])
    return prompt


def test_the_host_imports_the_pack(host):
    assert failed_imports(host.text()) == []
    assert "palimpsest" in host.text()


def test_a_prompt_runs_reports_its_progress_and_its_files_can_be_fetched(host_client):
    prompt = {
        "1": node("EmptyImage", width=64, height=48, batch_size=2, color=255),
        "2": node("PreviewImage", images=["1", 0]),
    }
    events: list[str] = []
    result = host_client.run(prompt, listener=lambda event, data: events.append(event))
    assert result.status == "success" and events[-1] == "execution_success" and "executing" in events
    assert len(result.files("2")) == 2 and result.files("1") == []
    assert host_client.view(result.files()[0]).startswith(b"\x89PNG")


def test_a_picture_goes_up_and_comes_back_unchanged(host_client, tmp_path):
    source = tmp_path / "a picture.bin"
    source.write_bytes(bytes(range(256)) * 3)
    name = host_client.upload(source)
    assert host_client.view({"filename": name, "type": "input"}) == source.read_bytes()


def test_a_refused_prompt_names_the_node_and_the_input(host_client):
    prompt = {
        "7": node("EmptyImage", width="wide", height=64, batch_size=1, color=0),
        "8": node("PreviewImage", images=["7", 0]),
    }
    with pytest.raises(Refused, match=r"node 7 \(EmptyImage\).*width") as caught:
        host_client.run(prompt)
    assert "7" in caught.value.node_errors
    with pytest.raises(Refused, match="Nobody"):
        host_client.run({"1": node("Nobody")})


def test_an_error_while_running_is_reported_with_its_node(host_client):
    prompt = {
        "1": node("EmptyLatentImage", width=64, height=64, batch_size=1),
        "2": node("SaveLatent", samples=["1", 0], filename_prefix="../../outside"),
    }
    result = host_client.run(prompt)
    assert (result.status, result.error_node) == ("error", "2") and "outside" in result.error


def test_an_interrupted_prompt_says_so_and_the_next_one_is_unaffected(host_client):
    pressed = threading.Event()

    def press(event: str, data: dict) -> None:
        if event == "executing" and not pressed.is_set():
            pressed.set()
            host_client.interrupt()

    assert host_client.run(chain(300, seed=1), listener=press).status == "interrupted"
    assert host_client.run(chain(3, seed=2)).status == "success"


def test_a_prompt_past_its_time_is_interrupted(host_client):
    with pytest.raises(HostError, match="did not end within 0 seconds"):
        host_client.wait(host_client.post(chain(300, seed=3)), timeout=0.2)
    assert host_client.run(chain(3, seed=4)).status == "success"


def test_after_free_everything_is_computed_again(host_client):
    prompt, seen = chain(3, seed=5), []
    host_client.run(prompt)
    host_client.free()
    host_client.run(prompt, listener=lambda event, data: seen.append((event, data.get("node"))))
    assert {("executing", name) for name in prompt} <= set(seen)


# Hosts that cannot start


def test_a_host_that_ends_is_reported_with_its_last_words(tmp_path):
    (tmp_path / "main.py").write_text("raise SystemExit('no such device here')")
    installation = Installation(own_installation(tmp_path).python, str(tmp_path), str(tmp_path))
    with pytest.raises(HostError, match=r"(?s)ended with exit code 1.*no such device here"):
        Host.start(installation, log=tmp_path / "log")


def test_a_host_that_gives_no_answer_is_ended(tmp_path):
    (tmp_path / "main.py").write_text("import time\nprint('still thinking', flush=True)\ntime.sleep(600)")
    installation = Installation(own_installation(tmp_path).python, str(tmp_path), str(tmp_path))
    with pytest.raises(HostError, match=r"(?s)gave no answer in 3 s.*still thinking"):
        Host.start(installation, log=tmp_path / "log", timeout=3)


def test_a_pack_that_cannot_be_imported_is_reported_with_the_reason(tmp_path):
    base = make_base(tmp_path / "base")
    (base / "custom_nodes" / "palimpsest").unlink()
    broken = base / "custom_nodes" / "broken"
    broken.mkdir()
    (broken / "__init__.py").write_text("raise RuntimeError('the reason why')")
    with pytest.raises(HostError, match=r"(?s)could not import .*broken.*the reason why"):
        Host.start(own_installation(base), log=tmp_path / "log")


def test_the_command_line_is_hermetic(monkeypatch):
    monkeypatch.delenv("DEVICE", raising=False)
    command = host_command(Installation("py", "/host", "/base"), 1234)
    assert command[:3] == ["py", str(Path("/host/main.py")), "--cpu"]
    assert {"--base-directory", "/base", "--disable-api-nodes", "sqlite:///:memory:", "1234"} <= set(command)
    monkeypatch.setenv("DEVICE", "gpu")
    assert "--cpu" not in host_command(Installation("py", "/host", "/base"), 1234)


# The websocket


def frame(payload: bytes, kind: int = 1, final: bool = True) -> bytes:
    size = len(payload)
    head = bytes([kind | (128 if final else 0)])
    if size < 126:
        return head + bytes([size]) + payload
    return head + (struct.pack(">BH", 126, size) if size < 65536 else struct.pack(">BQ", 127, size)) + payload


def handshake(request: bytes) -> bytes:
    """The server's half, RFC 6455, section 4.2.2."""
    key = re.search(rb"(?i)sec-websocket-key: (\S+)", request)[1]
    accept = base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
    head = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    return head + b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n"


@pytest.fixture
def speaker():
    """A websocket server that sends what it is given, in the given pieces; returns a connected client."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve(pieces: list[bytes], gate: threading.Event | None = None) -> Messages:
            def talk() -> None:
                connection, _ = server.accept()
                with connection:
                    request = b""
                    while b"\r\n\r\n" not in request:
                        request += connection.recv(4096)
                    connection.sendall(handshake(request) + pieces[0])
                    for piece in pieces[1:]:
                        if gate is not None:
                            gate.wait(30)
                        connection.sendall(piece)
                    connection.recv(4096)

            threading.Thread(target=talk, daemon=True).start()
            return Messages(f"http://127.0.0.1:{server.getsockname()[1]}/ws?clientId=me")

        yield serve


def test_messages_of_every_length_arrive_and_previews_are_skipped(speaker):
    texts = ["a", "b" * 125, "c" * 126, "d" * 70000]
    stream = b"".join(frame(b"\x00\x01preview", 2) + frame(text.encode()) for text in texts) + frame(b"x", 9)
    with speaker([stream[:50], stream[50:]]) as client:
        assert [client.receive(30) for _ in texts] == texts


def test_a_message_in_parts_is_put_together(speaker):
    with speaker([frame(b"one ", final=False) + frame(b"two", kind=0)]) as client:
        assert client.receive(30) == "one two"


def test_a_frame_cut_by_a_timeout_is_not_lost(speaker):
    gate, whole = threading.Event(), frame(b"late")
    with speaker([whole[:3], whole[3:]], gate) as client:
        assert client.receive(0.05) is None
        gate.set()
        assert client.receive(30) == "late"


def test_the_end_of_the_connection_is_an_error(speaker):
    with speaker([frame(b"", 8)]) as client, pytest.raises(ConnectionError):
        client.receive(30)
