"""The rules of the repository: which way imports run, how long things may be, what every node explains, what ships."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from palimpsest.benchmarks import headlines, results
from palimpsest.tools import archive
from palimpsest.tools.places import ROOT
from palimpsest.tools.steps import Problem

CORES = ("inversion", "guidance", "morphing")
SHIPPED_CODE = (*CORES, "host", "nodes")
CORE_IMPORTS = {"torch", "einops", "kornia", "torchvision", "scipy", "safetensors"} | set(sys.stdlib_module_names)
WORKSHOP = ("tests/", "benchmarks/", "papercut/", "tools/", "demo/", "media/", ".ci/", ".github/")
FUNCTION_CEILING, EXECUTE_CEILING, FILE_CEILING = 50, 30, 300


def python_files(*folders: str) -> list[Path]:
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imports(path: Path) -> list[tuple[str, ...]]:
    """Every import of a file as a dotted path; those inside the pack start with "palimpsest"."""
    package = ("palimpsest", *path.relative_to(ROOT).parent.parts)
    found: list[tuple[str, ...]] = []
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found += [tuple(alias.name.split(".")) for alias in node.names]
        if isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = (*base, *(node.module.split(".") if node.module else ()))
            found += [(*module, alias.name) for alias in node.names] if node.level else [module]
    return found


# Imports


@pytest.mark.parametrize("path", python_files(*CORES), ids=name_of)
def test_the_cores_know_nothing_of_the_host(path):
    for module in imports(path):
        if module[0] == "palimpsest":
            assert module[1] in CORES, f"{name_of(path)} imports {'.'.join(module)}"
        else:
            assert module[0] in CORE_IMPORTS, f"{name_of(path)} imports {'.'.join(module)}"


@pytest.mark.parametrize("path", python_files("host"), ids=name_of)
def test_the_host_room_knows_nothing_of_the_nodes(path):
    for module in imports(path):
        assert module[:2] != ("palimpsest", "nodes"), f"{name_of(path)} imports {'.'.join(module)}"


@pytest.mark.parametrize("path", python_files(*SHIPPED_CODE), ids=name_of)
def test_shipped_code_imports_nothing_that_does_not_ship_and_no_module_of_the_host_by_a_name_of_ours(path):
    for module in imports(path):
        if module[0] == "palimpsest":
            assert module[1] in SHIPPED_CODE, f"{name_of(path)} imports {'.'.join(module)}"
        else:
            # An absolute `import nodes` would fetch the host's file in the place of ours.
            assert module[0] not in (*SHIPPED_CODE, "diffusers", "peft", "accelerate"), name_of(path)


def test_the_root_holds_the_entry_point_and_nothing_else():
    names = []
    for node in tree(ROOT / "__init__.py").body:
        names += [node.name] if hasattr(node, "name") else [one.id for one in getattr(node, "targets", ())]
    assert sorted(names) == ["WEB_DIRECTORY", "comfy_entrypoint"]


# Tails


def functions(path: Path) -> list[tuple[str, int]]:
    """(name, lines) of every function without its docstring; of `execute` without its inputs, a line each."""
    found = []
    for node in ast.walk(tree(path)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            first = node.body[0]
            start = first.lineno if node.name == "execute" else node.lineno
            lines = node.end_lineno - start + 1
            if isinstance(first, ast.Expr) and isinstance(getattr(first, "value", None), ast.Constant):
                lines -= first.end_lineno - first.lineno + 1
            found.append((node.name, lines))
    return found


@pytest.mark.parametrize("path", python_files(*SHIPPED_CODE, "tools", "benchmarks"), ids=name_of)
def test_files_and_functions_stay_short(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= FILE_CEILING
    for name, lines in functions(path):
        if name == "define_schema":
            continue  # a declaration, as long as the node has inputs
        ceiling = EXECUTE_CEILING if name == "execute" else FUNCTION_CEILING
        assert lines <= ceiling, f"{name} in {name_of(path)} has {lines} lines, {ceiling} are allowed"


# Nodes


@cache
def schemas() -> tuple:
    from palimpsest.tools.readme import registered_schemas

    return tuple(registered_schemas())


def each_schema():
    """Parametrised over the nodes by their files' text, so that a broken node fails its test, not the collection."""
    found = [re.findall(r"node_id=\"(\w+)\"", path.read_text(encoding="utf-8")) for path in python_files("nodes")]
    return pytest.mark.parametrize("node_id", sorted({one for ids in found for one in ids}))


def schema_of(node_id: str):
    found = [schema for schema in schemas() if schema.node_id == node_id]
    assert len(found) == 1, f"{node_id} is registered {len(found)} times; each class belongs in its file's NODES once"
    return found[0]


def id_from(display_name: str) -> str:
    words = re.findall(r"[A-Za-z0-9]+", display_name)
    return "Palimpsest" + "".join(word[0].upper() + word[1:] for word in words)


@each_schema()
def test_a_node_is_registered_under_the_name_that_it_shows(node_id):
    assert id_from(schema_of(node_id).display_name) == node_id


@each_schema()
def test_a_node_explains_itself_and_each_of_its_inputs(node_id):
    schema = schema_of(node_id)
    assert (schema.description or "").strip().endswith("."), f"{node_id} needs a description of whole sentences"
    assert schema.category.startswith("Palimpsest"), f"{node_id} is in {schema.category}"
    for one in schema.inputs:
        assert (one.tooltip or "").strip(), f"input {one.id} of {node_id} has no tooltip"
    for one in schema.outputs:
        assert one.display_name or one.id, f"an output of {node_id} has no name"


@each_schema()
def test_a_node_has_a_page_of_help(node_id):
    page = ROOT / "web" / "docs" / f"{node_id}.md"
    assert page.is_file(), f"write {name_of(page)}"
    text = page.read_text(encoding="utf-8")
    for one in schema_of(node_id).inputs:
        shown = one.display_name or one.id
        assert shown.lower() in text.lower() or one.id in text, f"{name_of(page)} does not mention '{shown}'"


def test_every_page_of_help_belongs_to_a_node():
    here = {schema.node_id for schema in schemas()}
    assert {path.stem for path in (ROOT / "web" / "docs").glob("*.md")} <= here


def test_the_nodes_reach_the_running_host(host_client):
    assert {schema.node_id for schema in schemas()} <= set(host_client.object_info())


# The archive


@cache
def shipped() -> tuple[str, ...]:
    """What the registry's archive would hold."""
    try:
        return archive.shipped()
    except Problem:
        pytest.skip("not a git checkout")


def shipped_python() -> list[Path]:
    return [ROOT / name for name in shipped() if name.endswith(".py")]


def test_the_archive_holds_the_pack_and_not_the_workshop():
    assert {"__init__.py", "pyproject.toml", "LICENSE", "README.md", "nodes/__init__.py"} <= set(shipped())
    assert [name for name in shipped() if name.startswith(WORKSHOP)] == []


def test_the_archive_is_small_and_holds_no_weights():
    sizes = {name: (ROOT / name).stat().st_size for name in shipped()}
    assert sum(sizes.values()) < archive.CEILING
    kinds = {os.path.splitext(name)[1] for name in shipped()}
    weights = {".pt", ".pth", ".ckpt", ".bin", ".pkl", ".pickle", ".npz", ".safetensors", ".gguf"}
    assert not kinds & (weights | {".so", ".exe", ".zip"})


BANNED_CALLS = {"eval", "exec", "compile", "__import__", "print", "breakpoint"}
BANNED_MODULES = {"pickle", "marshal", "subprocess", "socket", "urllib", "requests", "http", "ftplib", "ctypes", "pip"}


def test_shipped_code_runs_nothing_hidden_and_calls_nobody():
    for path in shipped_python():
        modules = {module[0] for module in imports(path)}
        assert not modules & BANNED_MODULES, f"{name_of(path)} imports {modules & BANNED_MODULES}"
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in BANNED_CALLS, f"{name_of(path)}:{node.lineno} calls {called}"
                assert called not in ("os.system", "os.popen"), f"{name_of(path)}:{node.lineno} calls {called}"
                if called == "torch.load":
                    safe = [key for key in node.keywords if key.arg == "weights_only"]
                    assert safe and ast.unparse(safe[0].value) == "True", f"{name_of(path)}:{node.lineno}"


def test_shipped_text_is_plain_ascii():
    for name in shipped():
        if name.endswith((".py", ".md", ".toml", ".js", ".css")) and not name.startswith("locales/"):
            text = (ROOT / name).read_text(encoding="utf-8")
            odd = [f"{number}: {line}" for number, line in enumerate(text.splitlines(), 1) if not line.isascii()]
            assert odd == [], f"{name} {odd[0]}"


def test_no_tracked_file_names_this_checkout():
    done = subprocess.run(["git", "grep", "-lIF", str(ROOT) + "/"], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.split() == []


# Metadata


def test_the_metadata_is_complete_for_the_registry():
    from comfy_config.config_parser import extract_node_configuration
    from palimpsest.tools.comfyui import COMFYUI_VERSION

    found = extract_node_configuration(str(ROOT))
    project, comfy = found.project, found.tool_comfy
    assert (project.name, project.license.text) == ("palimpsest", "GPL-3.0-or-later")
    assert re.fullmatch(r"\d+\.\d+\.\d+", project.version)
    assert project.urls.repository and comfy.publisher_id and comfy.display_name == "Palimpsest"
    assert comfy.icon.endswith("/web/icon.svg") and (ROOT / "web" / "icon.svg").is_file()
    assert project.supported_comfyui_version == ">=" + ".".join(map(str, COMFYUI_VERSION))
    assert project.supported_comfyui_frontend_version and project.supported_os and project.supported_accelerators


def test_nothing_has_to_be_installed_beside_the_host():
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    # Compatibility data for the registry; the host brings the front end.
    assert [re.split(r"[<>=~!]", one)[0] for one in project["dependencies"]] == ["comfyui-frontend-package"]
    assert not (ROOT / "requirements.txt").exists()


def test_the_changelog_knows_the_version():
    import tomllib

    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    assert f"\n## {version}\n" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


@pytest.mark.host
def test_the_licence_is_the_hosts():
    assert (ROOT / "LICENSE").read_text() == (ROOT / ".host" / "ComfyUI" / "LICENSE").read_text()


# README


def test_the_generated_tables_are_up_to_date():
    from palimpsest.benchmarks.results import load, load_test_runs
    from palimpsest.tools.readme import README, RESULTS, renewed, results_page

    text, rows = README.read_text(encoding="utf-8"), load()
    assert renewed(text, schemas(), rows) == text, "run 'make readme'"
    assert results_page(rows, load_test_runs()) == RESULTS.read_text(encoding="utf-8"), "run 'make readme'"


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_bytes()) <= 20_000


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "benchmarks/RESULTS.md"])
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", (ROOT / page).read_text(encoding="utf-8")):
        assert target.startswith("https://") or ((ROOT / page).parent / target).exists(), target


def test_headings_are_linked_to_as_github_names_them():
    from palimpsest.tools.readme import anchor

    assert anchor("Sketch guidance, cost and strength") == "sketch-guidance-cost-and-strength"
    assert anchor("NullText Optimize after the papers' inversion") == "nulltext-optimize-after-the-papers-inversion"


# Headlines


def test_fifteen_rows_stand_in_the_readme_each_once():
    keys = [(one.technique, one.measure, one.mode) for one in headlines.HEADLINES]
    assert len(keys) == len(set(keys)) == 15
    rows = results.load()
    assert all(headlines.spread(one, rows) for one in headlines.HEADLINES)


def test_the_interval_of_a_rate_is_wilson_s():
    """By hand, for 8 of 10: (0.8 + 0.19207 -+ 1.96 sqrt(0.016 + 0.009604)) / 1.38416; all or none is no certainty."""
    assert headlines.wilson(0.8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-3)
    assert headlines.wilson(1.0, 10)[1] == 1.0 and headlines.wilson(1.0, 10)[0] == pytest.approx(0.7225, abs=1e-3)
    low, high = headlines.wilson(0.0, 10)
    assert low == 0.0 and high == pytest.approx(1 - 0.7225, abs=1e-3)


def test_a_row_that_a_suite_has_renamed_is_named():
    with pytest.raises(ValueError, match=r"No row 'a | b | c'"):
        headlines.found([], "a", "b", "c")
