"""The house: floors, no circles, and what set-up may bring."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

REPOSITORY = Path(__file__).resolve().parents[2]
FLOORS = (
    (
        "tats.errors",
        "tats.devices",
        "tats.paths",
        "tats.randomness",
        "tats.clip_spec",
        "tats.flags",
        "tats.flag_checks",
        "tats.video_io",
        "tats.weights",
        "tats.text",
    ),
    ("tats.models", "tats.data", "tats.evaluation"),
    ("tats.sampling", "tats.training"),
    ("tats.pipeline", "tats.commands"),
)
# Neighbours on the first floor that may not look at each other.
FORBIDDEN = (
    ("tats.models", "tats.data"),
    ("tats.models", "tats.evaluation"),
    ("tats.data", "tats.models"),
    ("tats.data", "tats.evaluation"),
    ("tats.training.callbacks", "tats.training.trainer"),
    ("tats.sampling", "tats.training.trainer"),
)


def _module_name(path: Path) -> str:
    parts = path.relative_to(REPOSITORY).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _all_modules() -> dict[str, Path]:
    return {_module_name(path): path for path in sorted((REPOSITORY / "tats").rglob("*.py"))}


def _imports(path: Path, modules: dict[str, Path]) -> Iterator[str]:
    """Name the project's modules a file imports, wherever in the file it does so.

    Imports for the type checker alone count too: who needs to know a type depends on it.
    """
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import; write the full name"
            for alias in node.names:
                submodule = f"{node.module}.{alias.name}"
                if submodule in modules:
                    yield submodule
                elif node.module in modules:
                    yield str(node.module)


def _graph() -> dict[str, set[str]]:
    modules = _all_modules()
    return {name: set(_imports(path, modules)) - {name} for name, path in modules.items()}


def _within(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


def _floor(module: str) -> int:
    if module == "tats":
        return len(FLOORS)  # the front door looks at everything
    heights = [
        height
        for height, packages in enumerate(FLOORS)
        for package in packages
        if _within(module, package)
    ]
    assert len(heights) == 1, f"{module} is on floors {heights} of FLOORS; expected it on one"
    return heights[0]


def test_no_import_goes_up_a_floor():
    upward = [
        f"{importer} → {imported}"
        for importer, imports in _graph().items()
        for imported in imports
        if _floor(imported) > _floor(importer)
    ]
    assert not upward


def test_models_data_and_evaluation_keep_to_themselves():
    crossing = [
        f"{importer} → {imported}"
        for importer, imports in _graph().items()
        for imported in imports
        for here, there in FORBIDDEN
        if _within(importer, here) and _within(imported, there)
    ]
    assert not crossing


def test_no_import_goes_round_in_a_circle():
    graph = _graph()
    finished: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, " → ".join((*trail, module))
        if module not in finished:
            for imported in sorted(graph[module]):
                visit(imported, (*trail, module))
            finished.add(module)

    for module in graph:
        visit(module, ())


def test_nothing_in_the_package_imports_the_scripts():
    scripts = {path.stem for path in REPOSITORY.glob("*.py")} | {"scripts", "benchmarks", "tests"}
    for path in _all_modules().values():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [str(node.module)]
            assert not scripts & {name.split(".")[0] for name in names}, path


def _needed_packages() -> set[str]:
    """Follow the requirements of TATS through everything that is installed, torch aside."""
    text = (REPOSITORY / "setup.py").read_text(encoding="utf-8")
    own = re.search(r"install_requires=\[(.*?)\]", text, flags=re.DOTALL)
    assert own is not None
    waiting = [Requirement(line) for line in re.findall(r'"([^"]+)"', own.group(1))]
    needed: set[str] = set()
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        applies = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if name in needed or not applies:
            continue
        needed.add(name)
        if name != "torch":  # a CUDA build of torch brings its own libraries: the user's choice
            waiting += [Requirement(line) for line in requires(name) or []]
    return needed


def test_neither_torchvision_nor_nvidia_packages_are_required():
    needed = _needed_packages()
    assert {"torch", "pytorch-lightning", "av"} <= needed
    assert not [name for name in needed if name.startswith(("torchvision", "nvidia", "triton"))]


@pytest.mark.parametrize("module", ["tats", "tats.flags"])
def test_parsing_a_command_line_loads_neither_models_nor_data(module):
    heavy = ("torch", "numpy", "PIL", "av", "pytorch_lightning", "tats.data", "tats.models")
    code = f"import sys, {module}; print([name for name in {heavy} if name in sys.modules])"
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "[]"


@pytest.mark.slow
def test_no_script_loads_a_renderer_before_it_is_asked_for_games():
    scripts = ", ".join({path.stem for path in REPOSITORY.glob("*.py")} - {"setup"})
    code = f"import sys, {scripts}; print('tats.data.mugen.renderer' in sys.modules)"
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        cwd=REPOSITORY, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert run.stdout.strip() == "False"


@pytest.mark.slow
def test_every_module_imports_without_torchvision_and_without_printing():
    modules = ", ".join(repr(name) for name in _all_modules())
    code = (
        "import sys; sys.modules['torchvision'] = None\n"
        f"import importlib\nfor name in [{modules}]: importlib.import_module(name)"
    )
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")
