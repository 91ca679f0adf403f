"""Files and their imports: where a module is found, and what its names stand for."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from ssmc.errors import Diagnostic, UserError
from ssmc.source import Source, Span

from . import ast
from .parse import parse
from .problems import Problems, nearest

SIZE_LIMIT = 1 << 20
LIBRARY = Path(__file__).with_name("library")


@dataclass(eq=False)
class Module:
    """One parsed file. ``problems`` are its syntax and import errors; ``imported`` says for each
    imported name which module has it and what it is called there."""

    name: str
    source: Source
    file: ast.File
    path: Path | None = None
    definitions: dict[str, ast.Definition] = field(default_factory=dict)
    imported: dict[str, tuple[Module, str]] = field(default_factory=dict)
    broken: set[str] = field(default_factory=set)
    problems: Problems = field(default_factory=Problems)

    def __repr__(self) -> str:
        return f"<Module {self.source.name}>"

    @property
    def layers(self) -> tuple[str, ...]:
        """The names of the layers defined here, the main one first."""
        return tuple(name for name, item in self.definitions.items() if item.kind == "layer")

    def layer(self, name: str | None = None) -> ast.Definition:
        """The layer of that name, or the main one; UserError if there is none."""
        if name is None:
            if not self.layers:
                hint = "a layer begins with `layer name(inputs) -> outputs:`"
                raise UserError(f"{self.source.name} defines no layer", hint=hint)
            name = self.layers[0]
        found = self.find(name)
        if found is None or found[1].kind != "layer":
            hint = nearest(name, self.layers) or f"it defines {', '.join(self.layers)}"
            raise UserError(f"{self.source.name} has no layer `{name}`", hint=hint)
        return found[1]

    def find(self, name: str) -> tuple[Module, ast.Definition] | None:
        """What a name stands for here: the definition and the module it was written in."""
        seen: set[tuple[str, str]] = set()
        module: Module = self
        while (module.source.name, name) not in seen:
            seen.add((module.source.name, name))
            if name in module.definitions:
                return module, module.definitions[name]
            if name not in module.imported:
                return None
            module, name = module.imported[name]
        return None

    def callable_names(self) -> tuple[str, ...]:
        return (*self.definitions, *self.imported)

    def require_readable(self) -> None:
        """Raise UserError with the syntax and import errors of this module and what it imports."""
        found = [d for module in self.everything() for d in module.problems.sorted()]
        if found:
            raise UserError(found)

    def everything(self) -> list[Module]:
        """This module and all that it imports, directly or not."""
        found = [self]
        for module in found:
            found.extend(m for m, _ in module.imported.values() if m not in found)
        return found


def library_names() -> tuple[str, ...]:
    """The modules of the library, dots for folders, sorted."""
    files = LIBRARY.rglob("*.ssm")
    return tuple(sorted(".".join(path.relative_to(LIBRARY).with_suffix("").parts) for path in files))


def read_module(name_or_path: str | Path) -> Module:
    """The module of a library name (``mamba.scan``) or a path (with a slash, or ending in ``.ssm``);
    its syntax errors are in its ``problems``. UserError if there is no such file."""
    text = str(name_or_path)
    if isinstance(name_or_path, Path) or text.endswith(".ssm") or "/" in text or "\\" in text:
        return _Loader().load(Path(name_or_path), text)
    path = LIBRARY.joinpath(*text.split(".")).with_suffix(".ssm") if text.replace(".", "").isidentifier() else None
    if path is None or not path.is_file():
        hint = nearest(text, library_names()) or "a file is named by its path: `./name.ssm`"
        raise UserError(f"the library has no module `{text}`", hint=hint)
    return _Loader().load(path, _shown(path))


def read_text(text: str, name: str = "<text>", folder: Path | None = None) -> Module:
    """The module of a text; it imports from ``folder`` (if given) and the library."""
    text = text.removeprefix("\ufeff").replace("\r\n", "\n")
    source = Source(name, text)
    if len(text.encode("utf-8", "surrogatepass")) > SIZE_LIMIT:
        raise UserError(_too_large(name))
    return _Loader().module(source, None, folder)


def _too_large(name: str) -> Diagnostic:
    return Diagnostic(f"{name} is larger than 1 MiB", None, "at most 1 MiB of text", "split it into modules")


def _shown(path: Path) -> str:
    """A path as diagnostics name it: short when it is below the library or the working folder."""
    if path.is_relative_to(LIBRARY):
        return f"library/{path.relative_to(LIBRARY).as_posix()}"
    return str(path)


def read_source(path: Path, name: str) -> Source:
    """The text of a file; UserError if it cannot be read or is not UTF-8."""
    try:
        with path.open("rb") as file:
            data = file.read(SIZE_LIMIT + 4)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(f"{name} cannot be read: {reason}", hint="check the path") from None
    if len(data) > SIZE_LIMIT:
        raise UserError(_too_large(name))
    data = data.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n")
    try:
        return Source(name, data.decode("utf-8"))
    except UnicodeDecodeError as error:
        start = len(data[: error.start].decode("utf-8", "replace"))
        source = Source(name, data.decode("utf-8", "replace"))
        message = f"byte 0x{data[error.start]:02x} is not UTF-8"
        raise UserError(Diagnostic(message, Span(source, start, start + 1), hint="save the file as UTF-8")) from None


class _Loader:
    """Loads a module and what it imports, each file once, so that circular imports end."""

    def __init__(self) -> None:
        self.loaded: dict[Path, Module] = {}

    def load(self, path: Path, name: str) -> Module:
        try:
            real = path.resolve()
        except (OSError, RuntimeError, ValueError) as error:
            raise UserError(f"{name} cannot be read: {error}", hint="check the path") from None
        if real not in self.loaded:
            self.module(read_source(path, name), real, real.parent)
        return self.loaded[real]

    def module(self, source: Source, path: Path | None, folder: Path | None) -> Module:
        parsed = parse(source)
        name = path.stem if path else source.name
        module = Module(name, source, parsed.file, path, broken={b.name for b in parsed.file.broken})
        if path is not None:
            self.loaded[path] = module
        for diagnostic in parsed.diagnostics:
            module.problems.take(diagnostic)
        for definition in parsed.file.definitions:
            self._define(module, definition)
        for item in parsed.file.imports:
            self._import(module, item, folder)
        return module

    def _define(self, module: Module, definition: ast.Definition) -> None:
        name = definition.name.text
        if name in module.definitions:
            first = module.definitions[name].name.span.line
            module.problems.add(
                f"`{name}` is defined twice", definition.name.span, hint=f"rename one; the first is on line {first}"
            )
            return
        module.definitions[name] = definition

    def _import(self, module: Module, item: ast.Import, folder: Path | None) -> None:
        alias = item.alias.text
        if alias in module.definitions or alias in module.imported:
            hint = f"rename it: `import {item.name.text} as other_name`"
            module.problems.add(f"`{alias}` is defined twice", item.alias.span, hint=hint)
            return
        other = self._find(module, item.module, folder)
        if other is None:
            module.broken.add(alias)
            return
        if (
            item.name.text in other.definitions
            or item.name.text in other.broken
            or any(i.alias.text == item.name.text for i in other.file.imports)
        ):
            module.imported[alias] = (other, item.name.text)
        else:
            hint = nearest(item.name.text, other.definitions) or "it defines " + ", ".join(other.definitions)
            message = f"module `{item.module.text}` has no `{item.name.text}`"
            module.problems.add(message, item.name.span, hint=hint)
            module.broken.add(alias)

    def _find(self, module: Module, name: ast.Name, folder: Path | None) -> Module | None:
        """The module an import names: below the importing file's folder, else in the library."""
        for root in (folder, LIBRARY):
            if root is None:
                continue
            path = root.joinpath(*name.text.split(".")).with_suffix(".ssm")
            try:
                if not path.is_file():
                    continue
                if not path.resolve().is_relative_to(root.resolve()):
                    message = f"module `{name.text}` lies outside the folder of this file"
                    hint = "imports stay below the importing file's folder, or in the library"
                    module.problems.add(message, name.span, hint=hint)
                    return None
                return self.load(path, _shown(path))
            except UserError as error:
                for diagnostic in error.diagnostics:
                    module.problems.take(
                        Diagnostic(diagnostic.message, diagnostic.span or name.span, hint=diagnostic.hint)
                    )
                return None
            except (OSError, RuntimeError, ValueError):
                continue
        where = "in the library" if folder is None else "beside this file or in the library"
        hint = nearest(name.text, library_names()) or "dots stand for folders: `from blocks.norms import rms_norm`"
        module.problems.add(f"there is no module `{name.text}`", name.span, f"a module {where}", hint)
        return None
