"""The tensors of a checkpoint directory, over all its safetensors files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from agent.experts.safetensors import MalformedFile, Tensor, read_contents

CONFIG = "config.json"
INDEX = "model.safetensors.index.json"


class CheckpointError(Exception):
    """The directory is no checkpoint whose experts can be served; one line for an operator."""


class StoredTensor(NamedTuple):
    path: Path
    tensor: Tensor


class _Index(msgspec.Struct):
    weight_map: dict[str, str]


def read_config(directory: Path) -> Mapping[str, Any]:
    """config.json, decoded. Raises `CheckpointError`."""
    path = directory / CONFIG
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except FileNotFoundError:
        raise CheckpointError(f"{directory}: has no {CONFIG}, expected a Hugging Face checkpoint") from None
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror or error}") from None
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: {error}") from None


def read_tensors(directory: Path) -> dict[str, StoredTensor]:
    """Every tensor by its name. Raises `CheckpointError` where a file is missing or cut short, or where the
    index and the files disagree."""
    index = _read_index(directory)
    if index is None:
        files = sorted(directory.glob("*.safetensors"))
        if not files:
            raise CheckpointError(f"{directory}: has no *.safetensors; other weight formats are not read")
    else:
        files = [_beside(directory, name) for name in sorted(set(index.values()))]
    tensors: dict[str, StoredTensor] = {}
    for path in files:
        try:
            contents = read_contents(path)
        except FileNotFoundError:
            raise CheckpointError(
                f"{path}: is missing, {INDEX} names it: is the download complete?"
            ) from None
        except OSError as error:
            raise CheckpointError(f"{path}: {error.strerror or error}") from None
        except MalformedFile as error:
            raise CheckpointError(f"{directory / str(error)}; is the download complete?") from None
        for name, tensor in contents.tensors.items():
            if name in tensors:
                raise CheckpointError(f"{directory}: {name} is in {tensors[name].path.name} and {path.name}")
            tensors[name] = StoredTensor(path, tensor)
    missing = next((name for name in index or () if name not in tensors), None)
    if missing is not None:
        raise CheckpointError(f"{directory}: {INDEX} names {missing}, which is in no file")
    return tensors


def _read_index(directory: Path) -> Mapping[str, str] | None:
    path = directory / INDEX
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Index).weight_map
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror or error}") from None
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: {error}") from None


def _beside(directory: Path, name: str) -> Path:
    if Path(name).name != name:
        raise CheckpointError(f"{directory / INDEX}: names {name!r}, expected a file of the same directory")
    return directory / name
