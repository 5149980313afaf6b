"""The tensors of a checkpoint directory, over all its safetensors files."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from moeplace_agent.architecture.document import read_document
from moeplace_agent.architecture.faults import ConfigFault
from moeplace_agent.experts.safetensors import MalformedFile, Tensor, read_contents

CONFIG = "config.json"
INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"

_SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d+)-of-(?P<count>\d+)\.safetensors")
_OF_OTHERS = ("adapter", "consolidated", "optimizer", "scheduler", "training")
"""What lies beside models: adapters, the same weights under Mistral's names, states of training."""
_OTHER_FORMATS = ("*.bin", "*.pt", "*.pth", "*.gguf")


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
        return read_document(path)
    except FileNotFoundError:
        raise CheckpointError(f"{directory}: has no {CONFIG}, expected a Hugging Face checkpoint") from None
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror or error}") from None
    except ConfigFault as fault:
        raise CheckpointError(f"{path}: {fault}") from None


def read_tensors(directory: Path) -> dict[str, StoredTensor]:
    """Every tensor of the model by its name. What the index does not name is not of the model; without an
    index, model.safetensors is the model, or all shards of one set are.

    Raises `CheckpointError` where a file is missing or cut short, or where the index and the files disagree.
    """
    index = _read_index(directory)
    files = _files(directory) if index is None else [_beside(directory, name) for name in _named(index)]
    tensors: dict[str, StoredTensor] = {}
    for path in files:
        for name, tensor in _contents(path).items():
            if index is not None and index.get(name) != path.name:
                continue
            if name in tensors:
                raise CheckpointError(f"{directory}: {name} is in {tensors[name].path.name} and {path.name}")
            tensors[name] = StoredTensor(path, tensor)
    missing = next((name for name in index or () if name not in tensors), None)
    if index is not None and missing is not None:
        raise CheckpointError(
            f"{directory}: {INDEX} says that {missing} is in {index[missing]}, which does not have it"
        )
    return tensors


def _named(index: Mapping[str, str]) -> list[str]:
    return sorted(set(index.values()))


def _contents(path: Path) -> Mapping[str, Tensor]:
    try:
        return read_contents(path).tensors
    except FileNotFoundError:
        raise CheckpointError(f"{path}: is missing, {INDEX} names it: is the download complete?") from None
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror or error}") from None
    except MalformedFile as error:
        raise CheckpointError(f"{path.parent / str(error)}; is the download complete?") from None


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
    if Path(name).name != name or name == "..":
        raise CheckpointError(f"{directory / INDEX}: names {name!r}, expected a file of the same directory")
    return directory / name


def _files(directory: Path) -> list[Path]:
    """The files of the model where no index names them."""
    single = directory / SINGLE
    if single.exists():
        return [single]
    found = sorted(directory.glob("*.safetensors"))
    own = [path for path in found if not path.name.startswith(_OF_OTHERS)]
    if not own:
        raise CheckpointError(_without_files(directory, found))
    sets: dict[tuple[str, int], list[int]] = {}
    for path in own:
        match = _SHARD.fullmatch(path.name)
        if match is not None:
            sets.setdefault((match["stem"], int(match["count"])), []).append(int(match["number"]))
    if not sets:
        return own
    if len(sets) > 1:
        names = " and ".join(f"{stem}-...-of-{count:05}" for stem, count in sorted(sets))
        raise CheckpointError(f"{directory}: has the shards {names}, and no {INDEX} says which are the model")
    ((stem, count), numbers) = next(iter(sets.items()))
    missing = next((number for number in range(1, count + 1) if number not in numbers), None)
    if missing is not None:
        sample = next(match for path in own if (match := _SHARD.fullmatch(path.name)) is not None)
        number = str(missing).zfill(len(sample["number"]))
        name = f"{stem}-{number}-of-{sample['count']}.safetensors"
        raise CheckpointError(f"{directory / name}: is missing, the others' names say that there are {count}")
    return [path for path in own if _SHARD.fullmatch(path.name)]


def _without_files(directory: Path, others: Sequence[Path]) -> str:
    if others:
        return (
            f"{directory}: has {others[0].name}, which is not a Hugging Face checkpoint, and neither {INDEX} "
            f"nor {SINGLE}"
        )
    pickled = next((path for kind in _OTHER_FORMATS for path in sorted(directory.glob(kind))), None)
    if pickled is not None:
        return f"{directory}: has {pickled.name} and no *.safetensors; other weight formats are not read"
    return f"{directory}: has no *.safetensors; other weight formats are not read"
