"""What a node says while it runs: all of it stays to be read, each sentence once, and only of the running prompt."""

import sys
from types import SimpleNamespace

import pytest
from comfy_execution.utils import CurrentNodeContext
from palimpsest.host.notify import notify


@pytest.fixture
def shown(monkeypatch) -> list[tuple[str, str]]:
    """(node, text) as the host's server is given them; there is none in a test's process."""
    sent: list[tuple[str, str]] = []
    instance = SimpleNamespace(send_progress_text=lambda text, node: sent.append((node, text)))
    monkeypatch.setitem(sys.modules, "server", SimpleNamespace(PromptServer=SimpleNamespace(instance=instance)))
    return sent


def test_a_second_sentence_stands_below_the_first_and_none_is_said_twice(shown):
    with CurrentNodeContext("prompt", "7"):
        for sentence in ("It was inverted.", "It is coloured.", "It was inverted."):
            notify(sentence)
    assert shown[-1] == ("7", "It was inverted.\nIt is coloured.")


def test_nodes_and_prompts_do_not_speak_for_each_other(shown):
    for prompt, node in (("one", "7"), ("one", "8"), ("two", "7")):
        with CurrentNodeContext(prompt, node):
            notify(f"{prompt} {node}")
    assert shown == [("7", "one 7"), ("8", "one 8"), ("7", "two 7")]
