"""Names are the field's terms: words of the old private dialect are in no identifier."""

from __future__ import annotations

import ast
import re
import subprocess
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# What stands instead: offloaded, extra keys, peak memory, ghost removal, step size, measured frames, methods, diffusers
# baseline, fixtures, sigmas, notify, gradient, fraction, std, classifier, reference, warn or report.
BANNED = frozenset(
    "lent carried held departed laws looks ways peer world ladder notice notices slope slopes share shares deviation "
    "recogniser oracle told tell".split()
)
FIELDS_TERMS = re.compile(r"held_?out", re.IGNORECASE)  # the field's word for data kept aside, and a schema's input id

# Good English with a second, private sense: no test function is asked, and any other identifier and any module that has
# one of them in its name stands here, with the reason.
AMBIGUOUS = {
    "close": {
        "close",  # the protocol of files, contexts and sockets
        "close_gaps",  # morphological closing
        "CLOSE",  # the opcode of a websocket, and the verdict "close" of an inversion
    },
    "choice": set(),
    "content": {
        "content",  # what a file or a picture holds
        "content_key", "same_content",  # content-addressed, as against compared by name
        "content_cache",  # a module: what is kept, by content
    },
    "many": set(),
    "words": {
        "words",  # of a prompt or a text (schema input of Word Attention Mask)
        "blend_words", "keep_words",  # schema inputs of Prompt-to-Prompt
        "SCENE_WORDS", "OTHER_WORDS",  # the vocabulary of a tokenizer
    },
}  # fmt: skip


def tracked(*patterns: str) -> list[Path]:
    run = subprocess.run(["git", "ls-files", *patterns], cwd=ROOT, capture_output=True, text=True)
    if run.returncode:
        pytest.skip("not a git repository")
    return [path for name in run.stdout.splitlines() if (path := ROOT / name).is_file()]


def parts(name: str) -> set[str]:
    """The words of an identifier, in small letters: at underscores and at capitals."""
    return {part.lower() for part in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", FIELDS_TERMS.sub("", name))}


def defined(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Functions, classes, arguments, assigned names and attributes, other names of imports; with their lines."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node.name, node.lineno
        elif isinstance(node, ast.arg):
            yield node.arg, node.lineno
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id, node.lineno
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr, node.lineno
        elif isinstance(node, (ast.ExceptHandler, ast.MatchAs)) and node.name:
            yield node.name, node.lineno
        elif isinstance(node, ast.alias) and node.asname:
            yield node.asname, 0


def faults(name: str) -> set[str]:
    """The words of an identifier that it must not have."""
    found = parts(name)
    wrong = found & BANNED
    if not name.startswith("test_"):
        wrong |= {word for word in found & AMBIGUOUS.keys() if name not in AMBIGUOUS[word]}
    return wrong


@cache
def names_of(path: Path) -> tuple[tuple[str, int], ...]:
    """A module's own name, and those defined in it."""
    return (path.stem, 0), *defined(ast.parse(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize(
    "name, wrong",
    [
        ("share_of_run", {"share"}),
        ("LargeWorld", {"world"}),
        ("_Held", {"held"}),
        ("PEER", {"peer"}),
        ("held_out_plans", set()),
        ("HELD_OUT", set()),
        ("shared", set()),
        ("upheld", set()),
        ("close", set()),
        ("close_up", {"close"}),
        ("by_words", {"words"}),
        ("keep_words", set()),
        ("test_as_many_rows", set()),
        ("test_slopes", {"slopes"}),
        ("UNetPeer", {"peer"}),
    ],
)
def test_words_are_found_in_names(name, wrong):
    assert faults(name) == wrong


def test_no_identifier_has_a_word_of_the_old_dialect():
    found = []
    for path in tracked("*.py"):
        place = path.relative_to(ROOT)
        found += [f"{place}: the module ({path.stem})"] * (path.stem in AMBIGUOUS)
        for name, line in names_of(path):
            found += [f"{place}:{line}: {name} ({word})" for word in faults(name)]
    assert not found, "\n".join(sorted(set(found)))


def test_every_exception_is_used():
    names = {name for path in tracked("*.py") for name, _ in names_of(path)}
    assert not {name for allowed in AMBIGUOUS.values() for name in allowed} - names


def test_words_of_the_old_dialect_in_prose_are_counted():
    """Comments, docstrings and pages: printed (pytest -rP), for a sentence may need one of them."""
    import io
    import tokenize

    count: Counter[str] = Counter()
    for path in tracked("*.py", "*.md"):
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".py":
            tokens = tokenize.generate_tokens(io.StringIO(text).readline)
            prose = [t.string for t in tokens if t.type == tokenize.COMMENT or t.string.startswith(('"""', 'r"""'))]
            text = "\n".join(prose)
        count.update(word for word in re.findall(r"[a-z]+", text.lower()) if word in BANNED)
    print(", ".join(f"{word} {n}" for word, n in count.most_common()), "| all:", sum(count.values()))
