"""Imports run one way, as docs/architecture.md says, and the heavy libraries stay where they belong."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = {"ssmc": ROOT / "ssmc", "ssmc.dsl": ROOT / "dsl", "ssmc.backends": ROOT / "backends"}
FOLDERS["ssmc.models"] = ROOT / "models"

# What each part may import, besides itself. A part is the second word of a module's name.
BASE = {"source", "errors"}
MIDDLE = {"ir", "analysis", "passes", "dsl", "backends"}
MAY_IMPORT: dict[str, set[str]] = {
    "source": set(),
    "errors": {"source"},
    "ir": BASE,
    "analysis": BASE | {"ir"},
    "passes": BASE | {"ir", "analysis"},
    "dsl": BASE | {"ir"},
    "backends": BASE | {"ir"},
    "compiler": BASE | MIDDLE,
    "derivations": BASE | MIDDLE,
    "explain": BASE | MIDDLE | {"compiler"},
    "verify": BASE | MIDDLE | {"compiler"},
    "runtime": BASE | MIDDLE | {"compiler", "explain", "verify"},
    "tune": BASE | MIDDLE | {"compiler", "explain", "runtime", "verify"},
    "compat": BASE | MIDDLE | {"compiler", "runtime"},
    "__main__": {"cli"},
    "cli": BASE | MIDDLE | {"compiler", "runtime", "commands"},
    "commands": BASE | MIDDLE | {"compiler", "derivations", "explain", "models", "runtime", "tune", "verify"},
    "models": BASE | MIDDLE | {"compiler", "runtime", "compat"},
}
# Modules that are faces of their own: what they offer concerns few, or loads NumPy.
SECOND_FACES = {"ssmc.ir.interpret", "ssmc.ir.loops", "ssmc.ir.loops_text", "ssmc.ir.scalar"}
TORCH = {"verify", "runtime", "tune", "compat", "models"}


def sources() -> Iterator[tuple[str, Path]]:
    """(module name, file) of every module; the links below ssmc/ are skipped."""
    for package, folder in FOLDERS.items():
        for path in sorted(folder.rglob("*.py")):
            inner = path.relative_to(folder)
            if package == "ssmc" and (folder / inner.parts[0]).is_symlink():
                continue
            words = [package, *inner.with_suffix("").parts]
            yield ".".join(words[:-1] if words[-1] == "__init__" else words), path


def imported(module: str, path: Path) -> Iterator[tuple[int, str, bool]]:
    """(line, absolute name of the module imported, written relatively?) for each import in a file."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name, False
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [f"ssmc.{alias.name}" for alias in node.names] if node.module == "ssmc" else [node.module or ""]
            for name in names:
                yield node.lineno, name, False
        elif isinstance(node, ast.ImportFrom):
            base = package.rsplit(".", node.level - 1)[0]
            targets = [node.module] if node.module else [alias.name for alias in node.names]
            for target in targets:
                yield node.lineno, f"{base}.{target}", True


def part(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


MODULES = [pytest.param(name, path, id=name) for name, path in sources() if name != "ssmc"]


@pytest.mark.parametrize("module, path", MODULES)
def test_imports_run_one_way(module: str, path: Path) -> None:
    here = part(module)
    assert here in MAY_IMPORT, f"{module}: add it to MAY_IMPORT above and to docs/architecture.md"
    wrong = []
    for line, name, _ in imported(module, path):
        there = part(name) if name.split(".")[0] == "ssmc" else here
        if there not in {here, "", "__version__"} and there not in MAY_IMPORT[here]:
            wrong.append(f"{path}:{line}: {here} must not import {name}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("module, path", MODULES)
def test_packages_are_imported_by_their_face(module: str, path: Path) -> None:
    wrong = []
    for line, name, relative in imported(module, path):
        if relative or not name.startswith("ssmc.") or part(module) == "":
            continue
        if part(name) == part(module):
            wrong.append(f"{path}:{line}: inside a package import relatively, not {name}")
        elif name.count(".") > 1 and name not in SECOND_FACES:
            wrong.append(f"{path}:{line}: import from the face, ssmc.{part(name)}, not {name}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("module, path", MODULES)
def test_torch_stays_above_the_compiler(module: str, path: Path) -> None:
    lines = [line for line, name, _ in imported(module, path) if name.split(".")[0] == "torch"]
    assert part(module) in TORCH or not lines, f"{path}: torch is imported in line {lines}"


@pytest.mark.parametrize("module, path", [*MODULES, pytest.param("ssmc", ROOT / "ssmc/__init__.py", id="ssmc")])
def test_the_one_importable_name_is_ssmc(module: str, path: Path) -> None:
    lines = [line for line, name, _ in imported(module, path) if name.split(".")[0] in {"dsl", "backends", "models"}]
    assert not lines, f"{path}: line {lines}: import ssmc.dsl, ssmc.backends, ssmc.models"


def loaded_by(statement: str) -> set[str]:
    """The top-level modules in memory after ``statement`` in a fresh interpreter."""
    code = f"{statement}\nimport sys\nprint(*(m for m in sys.modules if '.' not in m))"
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(out.stdout.split())


HEAVY = {"torch", "sympy", "numpy", "networkx", "triton", "transformers"}


@pytest.mark.parametrize(
    "statement", ["import ssmc", "import ssmc; ssmc.UserError", "import ssmc.cli", "import ssmc.models"]
)
def test_light_imports(statement: str) -> None:
    assert not loaded_by(statement) & HEAVY


def test_models_without_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    import ssmc
    import ssmc.models

    monkeypatch.setattr("ssmc.models.find_spec", lambda name: None)
    monkeypatch.delitem(vars(ssmc.models), "MambaModel", raising=False)
    with pytest.raises(ssmc.UserError, match=r"ssmc\.models\.MambaModel stands on transformers(.|\n)*ssmc\[models\]"):
        _ = ssmc.models.MambaModel
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = ssmc.models.nothing


def test_public_names_exist() -> None:
    import ssmc

    assert set(ssmc.__all__) <= set(dir(ssmc))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = ssmc.nothing
