"""Which packages a test needs, read from its source and from what that imports, without importing anything.

A test is `core` if all packages that it reaches are the cores' own: by imports at the top of its file, or by imports
inside a function that it names, at any depth. Fixtures count as names. Every other test is `host`: it needs ComfyUI, in
this process or as a server, or another package of the whole environment.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from re import fullmatch

ROOT = Path(__file__).resolve().parent.parent
HOST_MODULES = {
    "comfy", "comfy_api", "comfy_config", "comfy_execution", "comfy_extras", "comfyui_version", "execution",
    "folder_paths", "latent_preview", "main", "node_helpers", "nodes", "server",
}  # fmt: skip
CORE_PACKAGES = {"PIL", "einops", "kornia", "numpy", "pytest", "safetensors", "scipy", "torch", "torchvision"}
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
Place = tuple[Path, "str | None"]  # a file of the repository, and a name in it or None for the file itself


@cache
def packages_of(path: Path, name: str | None = None) -> frozenset[str]:
    """Top-level names of the foreign packages that `name` in `path` needs, or (None) that importing the file needs."""
    found, seen, todo = set(), set(), [(path, name), (path, None)]
    while todo:
        place = todo.pop()
        if place in seen:
            continue
        seen.add(place)
        found |= _packages(place)
        if place == (ROOT / "tools" / "inprocess.py", "own_installation"):
            found.add("server")
        if name is not None and place[1] is None:
            found |= packages_of(place[0])  # of a whole file, asked once
        else:
            todo += _next(place)
    return frozenset(found)


def is_core(path: Path, name: str | None = None) -> bool:
    return packages_of(path, name) <= CORE_PACKAGES


def needs_host(path: Path, name: str | None = None) -> bool:
    return not HOST_MODULES.isdisjoint(packages_of(path, name))


@cache
def _next(place: Place) -> list[Place]:
    return _read(place[0]).places(place[1])


@cache
def _packages(place: Place) -> set[str]:
    return _read(place[0]).packages(place[1])


class _File:
    """The imports of a file and the names that each of its parts refers to."""

    def __init__(self, path: Path):
        self.path = path
        self.tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
        self.defined: dict[str, list[ast.AST]] = {}
        self.imported: dict[str, Place] = {}
        for node in _executed(self.tree):
            for name in _bound(node):
                self.defined.setdefault(name, []).append(node)
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                self.imported |= self._bindings(node)
        self.autouse = [name for name, nodes in self.defined.items() if _is_decorated(nodes[-1], "autouse=True")]

    def packages(self, name: str | None) -> set[str]:
        modules = {module.split(".")[0] for node in self._imports(name) for module in self._modules(node)}
        # Modules that are named in a string are run as a script, replaced, or imported by that name.
        texts = {text.split(".")[0] for node in self._nodes(name) for text in _texts(node) if text.startswith("comfy")}
        tops = self._nodes(name) if name else _executed(self.tree)
        skipped = {
            text for top in tops for call in _calls(top, within=name is not None) for text in _skipped_without(call)
        }
        return (modules | texts | skipped) - sys.stdlib_module_names - {"palimpsest", "tests"}

    def places(self, name: str | None) -> list[Place]:
        found = [(file, None) for node in self._imports(name) for file in self._files(node)]
        for node in self._nodes(name):
            found += [(file, None) for text in _texts(node) if (file := _file_of(text))]
            inner = (self._bindings(one) for one in ast.walk(node) if isinstance(one, (ast.Import, ast.ImportFrom)))
            inner = {word: place for bindings in inner for word, place in bindings.items()}
            for word, attribute in _names_in(node):
                found += self._resolve(word, attribute, inner)
        if name is None:
            # What runs on import: functions that decorators and constants call.
            calls = (one.func for node in _executed(self.tree) for one in _calls(node))
            found += [(self.path, call.id) for call in calls if isinstance(call, ast.Name) and call.id in self.defined]
        elif name.startswith("test"):
            found += [(self.path, fixture) for fixture in self.autouse]
        return [place for place in found if place != (self.path, name)]

    def _nodes(self, name: str | None) -> list[ast.AST]:
        return [] if name is None else self.defined.get(name, [])

    def _imports(self, name: str | None) -> Iterator[ast.Import | ast.ImportFrom]:
        nodes = _executed(self.tree) if name is None else (one for top in self._nodes(name) for one in _certain(top))
        return (node for node in nodes if isinstance(node, (ast.Import, ast.ImportFrom)))

    def _resolve(self, word: str, attribute: str | None, inner: dict[str, Place]) -> list[Place]:
        if word in self.defined and word not in inner:
            return [(self.path, word)]
        if word in inner or word in self.imported:
            file, name = inner.get(word) or self.imported[word]
            return [(file, name or attribute)]
        return [(conftest, word) for conftest in _conftests(self.path.parent) if word in _read(conftest).defined][:1]

    def _base(self, node: ast.ImportFrom) -> str:
        package = ("palimpsest", *self.path.relative_to(ROOT).parent.parts)
        parts = package[: len(package) - node.level + 1] if node.level else ()
        return ".".join((*parts, *([node.module] if node.module else ())))

    def _modules(self, node: ast.Import | ast.ImportFrom) -> list[str]:
        return [alias.name for alias in node.names] if isinstance(node, ast.Import) else [self._base(node)]

    def _files(self, node: ast.Import | ast.ImportFrom) -> list[Path]:
        names = self._modules(node)
        if isinstance(node, ast.ImportFrom):
            names += [f"{names[0]}.{alias.name}" for alias in node.names]
        found = [file for name in names if (file := _file_of(name))]
        packages = {folder / "__init__.py" for file in found for folder in file.parents if folder.is_relative_to(ROOT)}
        return found + [file for file in packages if file.is_file()]

    def _bindings(self, node: ast.Import | ast.ImportFrom) -> dict[str, Place]:
        """Names that the import binds to files of the repository, or to names in them."""
        bound: dict[str, Place] = {}
        for alias in node.names:
            base = self._base(node) if isinstance(node, ast.ImportFrom) else alias.name
            if isinstance(node, ast.ImportFrom) and (file := _file_of(f"{base}.{alias.name}")):
                bound[alias.asname or alias.name] = (file, None)
            elif isinstance(node, ast.ImportFrom) and (file := _file_of(base)):
                bound[alias.asname or alias.name] = (file, alias.name)
        return bound


_read = cache(_File)


@cache
def _conftests(folder: Path) -> list[Path]:
    """Those whose fixtures the tests of a folder see, nearest first."""
    above = [one for one in (folder, *folder.parents) if one.is_relative_to(ROOT / "tests")]
    return [one / "conftest.py" for one in above if (one / "conftest.py").is_file()]


@cache
def _file_of(module: str) -> Path | None:
    parts = module.removeprefix("palimpsest.").split(".")
    if module == "palimpsest" or not (module.startswith("palimpsest.") or parts[0] == "tests"):
        return None
    place = ROOT.joinpath(*parts)
    return next((file for file in (place.with_suffix(".py"), place / "__init__.py") if file.is_file()), None)


def _executed(tree: ast.Module) -> Iterator[ast.AST]:
    """Every statement that runs on import; of functions and classes the statement itself."""
    todo = list(tree.body)
    while todo:
        node = todo.pop(0)
        yield node
        if not isinstance(node, (*FUNCTIONS, ast.ClassDef)):
            todo += [child for child in _kept(node) if isinstance(child, (ast.stmt, ast.ExceptHandler))]


def _certain(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes below, without those that may fail or are for type checkers only."""
    todo = [node]
    while todo:
        node = todo.pop()
        yield node
        todo += _kept(node)


def _kept(node: ast.AST) -> list[ast.AST]:
    if isinstance(node, ast.If) and any(word in ast.unparse(node.test) for word in ("TYPE_CHECKING", "__main__")):
        return list(node.orelse)
    if isinstance(node, ast.Try) and any("Import" in ast.unparse(one.type) for one in node.handlers if one.type):
        if not any(isinstance(one, ast.Raise) for handler in node.handlers for one in ast.walk(handler)):
            return [*node.orelse, *node.finalbody]
    return list(ast.iter_child_nodes(node))


def _bound(node: ast.AST) -> list[str]:
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return [node.name]
    targets = getattr(node, "targets", None) or [getattr(node, "target", None)]
    return [one.id for target in targets if target for one in ast.walk(target) if isinstance(one, ast.Name)]


def _calls(node: ast.AST, within: bool = False) -> Iterator[ast.Call]:
    """Calls that run with the statement; with `within` those inside a function too."""
    parts = [node]
    if within:
        pass
    elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        parts = list(node.decorator_list)
    elif isinstance(node, (ast.If, ast.For, ast.While, ast.With, ast.Try)):
        parts = []  # their statements come by themselves
    return (one for part in parts for one in ast.walk(part) if isinstance(one, ast.Call))


def _skipped_without(call: ast.Call) -> list[str]:
    named = getattr(call.func, "attr", None) == "importorskip"
    return [one.value.split(".")[0] for one in call.args if isinstance(one, ast.Constant)] if named else []


def _names_in(node: ast.AST) -> Iterator[tuple[str, str | None]]:
    """(name, attribute or None) of what the node mentions and does not bind itself.

    The arguments of tests and fixtures are mentioned too: they are fixtures.
    """
    parts = list(ast.walk(node))
    own = {one.arg for one in parts if isinstance(one, ast.arg)}
    if isinstance(node, FUNCTIONS):
        own |= {one.id for one in parts if isinstance(one, ast.Name) and isinstance(one.ctx, ast.Store)}
    if getattr(node, "name", "").startswith("test") or _is_decorated(node, "fixture"):
        yield from ((one.arg, None) for one in node.args.args + node.args.kwonlyargs)
    for one in parts:
        if isinstance(one, ast.Attribute) and isinstance(one.value, ast.Name) and one.value.id not in own:
            yield one.value.id, one.attr
        elif isinstance(one, ast.Name) and one.id not in own:
            yield one.id, None
        elif isinstance(one, ast.Call) and getattr(one.func, "attr", None) in ("getfixturevalue", "usefixtures"):
            yield from ((word.value, None) for word in one.args if isinstance(word, ast.Constant))


def _texts(node: ast.AST) -> Iterator[str]:
    """The strings that could be a module's dotted name."""
    texts = (one.value for one in ast.walk(node) if isinstance(one, ast.Constant) and isinstance(one.value, str))
    return (text for text in texts if fullmatch(r"\w+(\.\w+)+", text) and not text.endswith(".py"))


def _is_decorated(node: ast.AST, by: str) -> bool:
    return any(by in ast.unparse(one) for one in getattr(node, "decorator_list", ()))
