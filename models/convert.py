"""Checkpoints from one library's form to another's. Nothing that a file says is run: tensors are all it may hold."""

from __future__ import annotations

import json
import pickle
import shutil
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import save_torch_state_dict
from safetensors.torch import load_file
from torch import Tensor
from transformers import MambaConfig, PreTrainedConfig, RecurrentGemmaConfig

from ssmc.errors import UserError

from .checkpoints import Format
from .deepmind_format import EMBEDDING, RECURRENTGEMMA
from .mamba_ssm_format import MAMBA_SSM, is_mamba_ssm

FORMATS = {"mamba_ssm": MAMBA_SSM, "recurrentgemma": RECURRENTGEMMA}
OURS = "transformers"
# transformers' model_type → its configuration, and the library that has the same models.
_MODELS: dict[str, tuple[type[PreTrainedConfig], str]] = {
    "mamba": (MambaConfig, "mamba_ssm"),
    "recurrent_gemma": (RecurrentGemmaConfig, "recurrentgemma"),
}
_PICKLED, _SAFE = {".bin", ".pt", ".pth"}, ".safetensors"
_TOKENIZERS = (
    "tokenizer.model",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)


@dataclass(frozen=True)
class Conversion:
    """What was converted: from and to which library's form, of what, and the files that were written."""

    source: str
    target: str
    config: PreTrainedConfig
    tensors: int
    parameters: int
    dtypes: tuple[str, ...]
    files: tuple[Path, ...]


def convert_checkpoint(
    source: str | Path, folder: str | Path, to: str = OURS, max_shard_size: int | str = "5GB", **options: Any
) -> Conversion:
    """Read a checkpoint, and write it in another form.

    Args:
        source: a folder with config.json and weights, as mamba_ssm or transformers stores them; or a file of
            recurrentgemma (``2b.pt``), or a folder with one.
        folder: takes config.json and safetensors, with an index if there are several; files of the same names are
            replaced, and a tokenizer's files are copied. With another ``to``, what that library reads.
        to: "transformers", whose form this package reads; or "mamba_ssm" or "recurrentgemma", from transformers'.
        max_shard_size: of one file, in bytes or as "5GB".
        options: what recurrentgemma's files do not tell: ``attention_window``, the number of tokens before itself
            that a token sees (2048), and ``logits_soft_cap`` (30).

    Raises:
        UserError: there is no such checkpoint, it holds more than tensors, its tensors are not those of the model
            that its configuration describes (all of them are listed), or the other form cannot say what it is.
    """
    source, folder = Path(source), Path(folder)
    if to != OURS and to not in FORMATS:
        raise UserError(f"there is no form {to!r}", expected=f"{OURS}, {' or '.join(FORMATS)}")
    if folder.resolve() == (source if source.is_dir() else source.parent).resolve():
        raise UserError(
            f"{folder} is where the checkpoint lies, which would be written over", expected="another folder"
        )
    found = _Source(source)
    if found.form == OURS:
        config, library = found.transformers_config()
        if to != library:
            raise UserError(
                f"{source} is a checkpoint of transformers, of a {config.model_type} model",
                expected=f"--to {library}" if to != OURS else "one of another library",
            )
        form, tensors = FORMATS[library], _tied(found.tensors, config)
        settings = form.settings(config)
        if config.tie_word_embeddings and any("lm_head.weight" in row.ours for row in form.rows(config)):
            tensors["lm_head.weight"] = tensors[_embedding(form, config)]
        made = form.write(config, tensors)
        files = _write_theirs(folder, made, settings)
    else:
        if to != OURS:
            raise UserError(
                f"{source} is a checkpoint of {found.form}", expected=f"--to {OURS}, and from there --to {to}"
            )
        form = FORMATS[found.form]
        config = form.config(found.settings, found.tensors, options)
        made = _tied(form.read(config, found.tensors), config, _embedding(form, config))
        config.architectures = [form.model().__name__]
        config.dtype = made[_embedding(form, config)].dtype
        files = _write_ours(folder, made, config, max_shard_size)
    files += [Path(shutil.copy(path, folder)) for path in found.tokenizer]
    dtypes = dict.fromkeys(str(value.dtype).removeprefix("torch.") for value in made.values())
    return Conversion(
        found.form, to, config, len(made), sum(value.numel() for value in made.values()), tuple(dtypes), tuple(files)
    )


def _embedding(form: Format, config: PreTrainedConfig) -> str:
    """Our name for the embedding, their first row."""
    return form.rows(config)[0].ours[0]


def _tied(tensors: Mapping[str, Tensor], config: PreTrainedConfig, embedding: str | None = None) -> dict[str, Tensor]:
    """The tensors without an output matrix that is the embedding again; UserError if it is said to be, and is not."""
    if not config.tie_word_embeddings or "lm_head.weight" not in tensors:
        return dict(tensors)
    head = tensors["lm_head.weight"]
    names = (
        [embedding]
        if embedding
        else [name for name in tensors if name.endswith(("embeddings.weight", "embed_tokens.weight"))]
    )
    if not all(torch.equal(tensors[name], head) for name in names):
        raise UserError(
            f"lm_head.weight differs from {', '.join(names)}",
            expected="the same: the configuration ties the embeddings",
        )
    return {name: value for name, value in tensors.items() if name != "lm_head.weight"}


# ---------------------------------------------------------------- reading


class _Source:
    """A checkpoint as it lies on disk.

    Attributes:
        form: whose it is, "transformers" or a key of FORMATS.
        settings: config.json, if there is one.
        tensors: by the names that they have there.
        tokenizer: the files of a tokenizer beside it.
    """

    def __init__(self, path: Path) -> None:
        if not path.exists():
            raise UserError(f"there is no {path}", expected="a folder, or a file of tensors")
        folder = path if path.is_dir() else path.parent
        config = folder / "config.json"
        self.settings: dict[str, Any] | None = _read_json(config) if path.is_dir() and config.is_file() else None
        self.tensors = _read_folder(path) if path.is_dir() else _read_tensors(path)
        self.tokenizer = [folder / name for name in _TOKENIZERS if (folder / name).is_file()]
        self.form = self._form(path)

    def _form(self, path: Path) -> str:
        if self.settings is not None and is_mamba_ssm(self.settings):
            return "mamba_ssm"
        if self.settings is not None and self.settings.get("model_type") in _MODELS:
            return OURS
        if EMBEDDING in self.tensors:
            return "recurrentgemma"
        what = (
            "has no config.json that says so"
            if self.settings is None
            else f"has the model_type {self.settings.get('model_type')!r}"
        )
        raise UserError(
            f"{path} is of no form that is known: it {what}, and no tensor {EMBEDDING}",
            expected="mamba_ssm's config.json (d_model, n_layer), recurrentgemma's tensors, or transformers' "
            + " or ".join(_MODELS),
        )

    def transformers_config(self) -> tuple[PreTrainedConfig, str]:
        """The configuration, and the library that has the same models."""
        assert self.settings is not None
        kind, library = _MODELS[self.settings["model_type"]]
        return kind.from_dict(self.settings), library


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise UserError(f"{path} is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise UserError(f"{path} is not an object", expected="names and values")
    return found


def _read_folder(folder: Path) -> dict[str, Tensor]:
    """All tensors of a folder: of the files of an index, else of the one file of tensors that there is."""
    for name in ("model.safetensors.index.json", "pytorch_model.bin.index.json"):
        if (folder / name).is_file():
            files = [folder / file for file in dict.fromkeys(_read_json(folder / name)["weight_map"].values())]
            break
    else:
        known = [folder / name for name in ("model.safetensors", "pytorch_model.bin") if (folder / name).is_file()]
        files = known[:1] or sorted(p for p in folder.iterdir() if p.suffix in _PICKLED | {_SAFE})
        if len(files) != 1:
            raise UserError(
                f"{folder} holds {len(files)} files of tensors" + "".join(f", {path.name}" for path in files[:5]),
                expected="model.safetensors, pytorch_model.bin, or one file of another name",
                hint="name the file itself",
            )
    tensors: dict[str, Tensor] = {}
    for file in files:
        tensors.update(_read_tensors(file))
    return tensors


def _read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of one file by name; names of nested tables are joined by dots."""
    if path.suffix not in _PICKLED | {_SAFE}:
        raise UserError(f"{path} ends in {path.suffix!r}", expected=f"{_SAFE} or {', '.join(sorted(_PICKLED))}")
    try:
        if path.suffix == _SAFE:
            found = load_file(path)
        else:  # archives stay on disk until a tensor is read
            found = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(f"{path} is no file of tensors alone, and nothing else is read: {reason}") from None
    except Exception as error:  # on bytes that are no pickle PyTorch's reader raises whatever happens to it
        raise UserError(f"{path} cannot be read: {str(error).partition(chr(10))[0]}") from None
    tensors = dict(_flat(found, ""))
    if not tensors:
        raise UserError(f"{path} holds no tensors")
    return tensors


def _flat(value: Any, name: str) -> list[tuple[str, Tensor]]:
    if isinstance(value, Mapping):
        return [
            pair for key, inner in value.items() for pair in _flat(inner, f"{name}.{key}".strip(".").replace("/", "."))
        ]
    if isinstance(value, Tensor):
        return [(name, value.detach())]
    raise UserError(f"{name or 'the file'} is an object of type {type(value).__name__}", expected="tensors by name")


# ---------------------------------------------------------------- writing


def _write_ours(
    folder: Path, tensors: Mapping[str, Tensor], config: PreTrainedConfig, max_shard_size: int | str
) -> list[Path]:
    """config.json and safetensors, several with an index where one would be too large."""
    before = _stamps(folder)
    config.save_pretrained(folder)
    save_torch_state_dict(
        {name: _alone(value) for name, value in tensors.items()}, folder, max_shard_size=max_shard_size
    )
    return _changed(folder, before)


def _write_theirs(folder: Path, tensors: Mapping[str, Tensor], settings: Mapping[str, Any] | None) -> list[Path]:
    """config.json, where the library has one, and one file of tensors."""
    folder.mkdir(parents=True, exist_ok=True)
    written = [folder / ("pytorch_model.bin" if settings is not None else "model.pt")]
    torch.save(dict(tensors), written[0])
    if settings is not None:
        written.insert(0, folder / "config.json")
        written[0].write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    return written


def _alone(value: Tensor) -> Tensor:
    """The tensor in memory that holds nothing else: safetensors writes no parts of others."""
    return value if value.untyped_storage().nbytes() == value.nbytes else value.clone()


def _stamps(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.iterdir()} if folder.is_dir() else {}


def _changed(folder: Path, before: Mapping[Path, int]) -> list[Path]:
    return [path for path, stamp in sorted(_stamps(folder).items()) if before.get(path) != stamp]
