"""Instance and placement files: `.npz` without pickles, refused with one line that names the key and the
index."""

from __future__ import annotations

import math
import os
import struct
import tempfile
import tokenize
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from solvers.placement import Placement
from solvers.problem import Coupling, PlacementProblem, ProblemError
from solvers.result import InvalidBound, SolveResult, SolveStatus, bound_of, gap_ratio

INSTANCE_FORMAT = "moeplace-instance/1"
PLACEMENT_FORMAT = "moeplace-placement/1"
SIZE_LIMIT_BYTES = 16 * 2**30

_REQUIRED = (
    "expert_bytes",
    "experts_per_block",
    "capacity_bytes",
    "latency_seconds",
    "origin_latency_seconds",
    "route_node",
    "route_block",
    "route_experts",
    "route_rate",
    "coupling",
    "min_replicas",
)
_OPTIONAL = (
    "current",
    "ingress_bytes_per_second",
    "egress_bytes_per_second",
    "origin_egress_bytes_per_second",
    "horizon_seconds",
    "pins",
    "drained",
    "device_node",
    "device_capacity_bytes",
)
_SCALARS = {"min_replicas": "iu", "origin_egress_bytes_per_second": "iuf", "horizon_seconds": "iuf"}
# what the standard library and numpy raise on archives with wrong bytes; OSError is a seek to nowhere
_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    MemoryError,
    NotImplementedError,
    OSError,
    OverflowError,
    RuntimeError,
    SyntaxError,
    ValueError,
    struct.error,
    tokenize.TokenError,
)
_PLACEMENT_KEYS = ("holds", "algorithm", "objective", "lower_bound", "runtime_seconds", "status", "shortfall")


def load_problem(path: str | os.PathLike[str]) -> PlacementProblem:
    """Reads an instance file. `ProblemError` where it is malformed, `OSError` where it cannot be read."""
    with _Archive(path, INSTANCE_FORMAT) as archive:
        archive.refuse_others((*_REQUIRED, *_OPTIONAL))
        values: dict[str, Any] = {}
        for key in (*_REQUIRED, *_OPTIONAL):
            if key in _OPTIONAL and key not in archive:
                continue
            if key == "coupling":
                values[key] = archive.text(key)
            elif key in _SCALARS:
                values[key] = archive.number(key, _SCALARS[key])
            else:
                values[key] = archive.array(key)
    return PlacementProblem(**values)


def save_problem(path: str | os.PathLike[str], problem: PlacementProblem) -> None:
    """Writes an instance file, whole or not at all."""
    arrays: dict[str, npt.NDArray[Any]] = {"format": np.array(INSTANCE_FORMAT)}
    for key in (*_REQUIRED, *_OPTIONAL):
        value = getattr(problem, key)
        if value is not None:
            arrays[key] = np.asarray(str(value) if isinstance(value, Coupling) else value)
    write_archive(path, arrays)


def load_result(path: str | os.PathLike[str]) -> SolveResult:
    """Reads a placement file with its evidence. Raises as `load_problem`."""
    with _Archive(path, PLACEMENT_FORMAT) as archive:
        archive.refuse_others(_PLACEMENT_KEYS)
        status = archive.text("status")
        if status not in list(SolveStatus):
            raise ProblemError(f"status: is {status!r:.60}, expected one of {', '.join(SolveStatus)}")
        holds = None
        if status == SolveStatus.INFEASIBLE:
            if "holds" in archive:
                raise ProblemError("holds: present, expected none with status INFEASIBLE")
        elif status != SolveStatus.TIME_LIMIT or "holds" in archive or "shortfall" not in archive:
            holds = archive.array("holds")
        objective = archive.number("objective", "f")
        bound = archive.number("lower_bound", "f")
        runtime = archive.number("runtime_seconds", "f")
        if holds is not None and math.isnan(objective):
            raise ProblemError("objective: is nan, expected the objective of the placement")
        if not 0 <= runtime < math.inf:
            raise ProblemError(f"runtime_seconds: is {runtime}, expected a finite number of at least 0")
        lower_bound = None if math.isnan(bound) else bound
        if lower_bound is not None:
            if not math.isfinite(lower_bound):
                raise ProblemError(f"lower_bound: is {bound}, expected a finite number, or nan for none")
            try:
                bound_of(lower_bound, objective if holds is not None else math.inf)
            except InvalidBound:
                raise ProblemError(
                    f"lower_bound: is {bound}, expected at most the objective, {objective}"
                ) from None
        return SolveResult(
            placement=None if holds is None else Placement(holds),
            status=SolveStatus(status),
            algorithm=archive.text("algorithm"),
            objective=None if holds is None else objective,
            lower_bound=lower_bound,
            gap_ratio=gap_ratio(None if holds is None else objective, lower_bound),
            runtime_seconds=runtime,
            shortfall=archive.text("shortfall") if "shortfall" in archive else None,
        )


def load_placement(path: str | os.PathLike[str]) -> Placement:
    """Reads the placement of a placement file; `ProblemError` where it has none (INFEASIBLE, or TIME_LIMIT
    with a shortfall). Raises as `load_problem`."""
    result = load_result(path)
    if result.placement is None:
        raise ProblemError(f"holds: absent, the file says {result.status}: {result.shortfall}")
    return result.placement


def save_placement(path: str | os.PathLike[str], result: SolveResult) -> None:
    """Writes a placement file, whole or not at all."""
    arrays: dict[str, npt.NDArray[Any]] = {
        "format": np.array(PLACEMENT_FORMAT),
        "algorithm": np.array(result.algorithm),
        "objective": np.array(math.nan if result.objective is None else result.objective),
        "lower_bound": np.array(math.nan if result.lower_bound is None else result.lower_bound),
        "runtime_seconds": np.array(result.runtime_seconds),
        "status": np.array(str(result.status)),
    }
    if result.placement is not None:
        arrays["holds"] = result.placement.holds
    if result.shortfall is not None:
        arrays["shortfall"] = np.array(result.shortfall)
    write_archive(path, arrays)


def write_archive(path: str | os.PathLike[str], arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    """Writes an `.npz`, whole or not at all."""
    target = Path(path)
    with tempfile.NamedTemporaryFile(dir=target.parent, prefix=f".{target.name}.", delete=False) as temporary:
        try:
            np.savez_compressed(temporary, allow_pickle=False, **arrays)
            temporary.flush()
            os.fsync(temporary.fileno())
            Path(temporary.name).chmod(0o644)
            Path(temporary.name).replace(target)
        except BaseException:
            Path(temporary.name).unlink(missing_ok=True)
            raise


class _Archive:
    """The arrays of one `.npz`, each checked against its own header before anything of its size is
    allocated."""

    def __init__(self, path: str | os.PathLike[str], expected_format: str) -> None:
        with Path(path).open("rb"):
            pass  # a file that cannot be opened is the caller's OSError, not damage
        try:
            self._zip = zipfile.ZipFile(path)
        except zipfile.BadZipFile:
            raise ProblemError("file: not an .npz archive") from None
        except _DAMAGE:
            raise ProblemError("file: a damaged .npz archive") from None
        try:
            self._members: dict[str, zipfile.ZipInfo] = {}
            for info in self._zip.infolist():
                key = info.filename.removesuffix(".npy")
                if key in self._members:
                    raise ProblemError(f"{key!r:.60}: in the file twice")
                self._members[key] = info
            found = self.text("format")
            if found != expected_format:
                raise ProblemError(f"format: is {found!r:.60}, expected {expected_format!r}")
        except BaseException:
            self._zip.close()
            raise

    def __enter__(self) -> _Archive:
        return self

    def __exit__(self, *_: object) -> None:
        self._zip.close()

    def __contains__(self, key: str) -> bool:
        return key in self._members

    def refuse_others(self, known: tuple[str, ...]) -> None:
        for key in self._members:
            if key != "format" and key not in known:
                raise ProblemError(f"{key!r:.60}: unknown key")

    def text(self, key: str) -> str:
        value = self.array(key)
        if value.dtype.kind != "U" or value.ndim != 0:
            raise ProblemError(f"{key}: has type {value.dtype} and shape {value.shape}, expected one string")
        return str(value[()])

    def number(self, key: str, kinds: str) -> Any:
        value = self.array(key)
        if value.dtype.kind not in kinds or value.ndim != 0:
            raise ProblemError(f"{key}: has type {value.dtype} and shape {value.shape}, expected one number")
        return value.item()

    def array(self, key: str) -> npt.NDArray[Any]:
        info = self._members.get(key)
        if info is None:
            raise ProblemError(f"{key}: missing")
        try:
            with self._zip.open(info) as stream:
                return _read(key, info.file_size, stream)
        except ProblemError:
            raise
        except _DAMAGE:
            raise ProblemError(f"{key}: damaged, cannot be read") from None


def _read(key: str, stored_bytes: int, stream: IO[bytes]) -> npt.NDArray[Any]:
    version = np.lib.format.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise ProblemError(f"{key}: array format {version}, expected 1.0 or 2.0")
    read_header = (
        np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    )
    shape, fortran, dtype = read_header(stream)
    if dtype.hasobject or dtype.kind not in "biufU":
        raise ProblemError(f"{key}: has type {dtype}, expected numbers or a string")
    size = math.prod(shape) * dtype.itemsize
    if size > SIZE_LIMIT_BYTES:
        raise ProblemError(f"{key}: has shape {shape}, above the limit of {SIZE_LIMIT_BYTES} bytes")
    if any(extent < 0 for extent in shape) or size > stored_bytes:
        raise ProblemError(f"{key}: has shape {shape}, more than the file holds")
    data = bytearray()
    while len(data) < size:
        chunk = stream.read(min(size - len(data), 2**24))
        if not chunk:
            raise ProblemError(f"{key}: has shape {shape}, more than the file holds")
        data += chunk
    flat = np.frombuffer(data, dtype=dtype, count=math.prod(shape)) if size else np.empty(0, dtype)
    if not size:
        return np.zeros(shape, dtype)
    array = flat.reshape(shape[::-1]).T if fortran else flat.reshape(shape)
    return array.astype(dtype.newbyteorder("="))
