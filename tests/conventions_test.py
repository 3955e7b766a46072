"""The house rules that a machine can check."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
STOREYS = {"data_pipelines": 0, "agejax": 1, "experiments": 2}  # imports point down
MODULES = sorted(path for storey in STOREYS for path in (ROOT / storey).rglob("*.py"))
NOT_AT_RUN_TIME = {"torch", "tensorflow", "torchvision"}


def imports(path: Path) -> set[str]:
    """Top-level names of the packages that a file imports, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_module_keeps_the_house_rules(path):
    storey = path.relative_to(ROOT).parts[0]
    names = imports(path)
    upwards = {name for name in names if STOREYS.get(name, -1) > STOREYS[storey]}
    assert not upwards, "an arrow that points up"
    if path.parent != ROOT / "agejax/bench":  # the peer that speeds are compared with
        assert not names & NOT_AT_RUN_TIME
    if storey == "data_pipelines":
        assert not names & {"jax", "flax", "optax"}, "a loader's worker must not open a device"
    assert path.name not in ("utils.py", "common.py", "helpers.py")
    assert len(path.read_text().splitlines()) <= 300
    assert ast.get_docstring(ast.parse(path.read_text())), "a module says what it is for"


def test_import_cycles_do_not_exist():
    graph = {_name(path): _imported_modules(path) for path in MODULES}
    done, open_ = set(), []

    def visit(name):
        assert name not in open_, " → ".join([*open_, name])
        if name in done or name not in graph:
            return
        open_.append(name)
        for other in graph[name]:
            visit(other)
        open_.pop()
        done.add(name)

    for name in graph:
        visit(name)


def _name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imported_modules(path: Path) -> set[str]:
    known = {_name(other) for other in MODULES}
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            inner = {f"{node.module}.{alias.name}" for alias in node.names} & known
            found |= inner or ({node.module} & known)
    return found - {_name(path)}


def test_public_functions_and_classes_are_documented():
    """One line where one line is enough; a function of three lines may speak for itself."""
    bare = []
    for path in MODULES:
        for node in ast.parse(path.read_text()).body:
            if not isinstance(node, (ast.FunctionDef, ast.ClassDef)) or node.name.startswith("_"):
                continue
            if not ast.get_docstring(node) and node.end_lineno - node.lineno > 8:
                bare.append(f"{path.relative_to(ROOT)}: {node.name}")
    assert not bare


def test_functions_take_their_jax_key_first():
    for path in (ROOT / "agejax").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                names = [argument.arg for argument in node.args.args if argument.arg != "self"]
                assert "key" not in names[1:], f"{path.relative_to(ROOT)}: {node.name}({', '.join(names)})"


def test_importing_agejax_does_not_import_jax():
    code = "import agejax, sys; assert 'jax' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_top_level_folders_are_the_five():
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.split()
    if not tracked:
        pytest.skip("not a git checkout")
    folders = {name.split("/")[0] for name in tracked if "/" in name}
    assert folders <= {"agejax", "data_pipelines", "experiments", "tests", "docs", ".github", ".ci"}
