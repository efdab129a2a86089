"""What a node warns of while it runs: it goes to the browser that pressed Run, with the node and the prompt."""

import sys
from types import SimpleNamespace

import pytest
from comfy_execution.utils import CurrentNodeContext
from palimpsest.host.notify import notify


@pytest.fixture
def server(monkeypatch) -> SimpleNamespace:
    """The host's server as `notify` finds it; there is none in a test's process. sent: its messages."""
    sent: list[tuple] = []
    instance = SimpleNamespace(client_id="browser", sent=sent, send_sync=lambda *message: sent.append(message))
    monkeypatch.setitem(sys.modules, "server", SimpleNamespace(PromptServer=SimpleNamespace(instance=instance)))
    return instance


def test_a_sentence_goes_to_the_client_with_its_node_and_prompt(server):
    for prompt, node in (("one", "7"), ("two", "7:3")):
        with CurrentNodeContext(prompt, node):
            notify(f"{prompt} {node}")
    assert server.sent == [
        ("palimpsest.warning", {"node": "7", "prompt": "one", "text": "one 7"}, "browser"),
        ("palimpsest.warning", {"node": "7:3", "prompt": "two", "text": "two 7:3"}, "browser"),
    ]


def test_without_a_node_or_a_browser_a_sentence_is_in_the_log_alone(server, caplog):
    notify("No node runs.")
    server.client_id = None
    with CurrentNodeContext("prompt", "7"):
        notify("Nobody looks.")
    assert server.sent == [] and [one.message for one in caplog.records] == ["No node runs.", "Nobody looks."]
