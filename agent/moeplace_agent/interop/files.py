"""Files read within bounds: none is executed, and none makes more of itself than its size allows."""

from __future__ import annotations

import codecs
import csv
import io
import os
import tempfile
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt
import yaml

from moeplace_agent.interop.faults import InteropError

MAX_TEXT_BYTES = 256 << 20
"""Of JSON, YAML and CSV, which are read whole, and of one line of JSONL."""
MAX_ARRAY_BYTES = 8 << 30
"""Of the arrays of one file, inflated."""

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
"""That of UTF-32 begins with that of UTF-16."""
_NO_TEXT = "file: is not text in UTF-8, and no byte order mark says another encoding"

Array = npt.NDArray[Any]
_Shape = TypeVar("_Shape")
# what numpy and the standard library raise on archives with wrong bytes
_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    NotImplementedError,
    RuntimeError,
    SyntaxError,
    ValueError,
    tokenize.TokenError,
)


def read_text(path: Path) -> str:
    """A file of text in UTF-8, or in what its byte order mark says, without the mark; line ends of every
    system become `\n`. `InteropError` where it is too large or no text, `OSError` where it cannot be read."""
    with path.open("rb") as stream:
        content = stream.read(MAX_TEXT_BYTES + 1)
    if len(content) > MAX_TEXT_BYTES:
        raise InteropError(f"file: has more than {MAX_TEXT_BYTES} bytes")
    try:
        text = content.decode(_encoding(content))
    except UnicodeDecodeError:
        raise InteropError(_NO_TEXT) from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _encoding(head: bytes) -> str:
    return next((name for mark, name in _MARKS if head.startswith(mark)), "utf-8")


def decode_json(
    content: str | bytes | msgspec.Raw, shape: type[_Shape] | Any, key: str = "JSON"
) -> _Shape | Any:
    """JSON of a known shape; `InteropError` with the place below `key` where it has another."""
    try:
        return msgspec.json.decode(content, type=shape)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        words = str(error) or type(error).__name__
        raise InteropError(f"{key}: {words[0].lower()}{words[1:]}") from None


def read_json(path: Path, shape: type[_Shape] | Any) -> _Shape | Any:
    return decode_json(read_text(path), shape)


def read_yaml(path: Path) -> Any:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        return yaml.load(read_text(path), Loader=loader)
    except (yaml.YAMLError, UnicodeError, RecursionError, ValueError) as error:
        if isinstance(error, InteropError):
            raise
        mark = getattr(error, "problem_mark", None)
        raise InteropError(f"file: not YAML{'' if mark is None else f', line {mark.line + 1}'}") from None


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a text file with their numbers, from 1, as `read_text` understands text; blank ones are
    passed over."""
    with path.open("rb") as stream:
        encoding = _encoding(stream.read(4))
    number = 0
    with path.open(encoding=encoding) as lines:
        try:
            while line := lines.readline(MAX_TEXT_BYTES + 1):
                number += 1
                if len(line) > MAX_TEXT_BYTES:
                    raise InteropError(f"line {number}: has more than {MAX_TEXT_BYTES} characters")
                if line.strip():
                    yield number, line
        except UnicodeDecodeError:
            raise InteropError(_NO_TEXT) from None


def read_csv(path: Path) -> list[tuple[int, list[str]]]:
    """The rows of a CSV file with the numbers of their lines, from 1; blank lines are passed over. Fields are
    apart by semicolons, tabs, commas or spaces: by the first of these that the first row has. Fields have no
    space around them; a last field that is empty in every row is none."""
    text = read_text(path)
    first = next((line for line in text.split("\n") if line.strip()), "")
    delimiter = next((mark for mark in ";\t," if mark in first), " ")
    spaced = delimiter == " "
    try:
        lines = csv.reader(
            io.StringIO(text, newline=""), delimiter=delimiter, strict=True, skipinitialspace=spaced
        )
        rows = [(lines.line_num, [field.strip() for field in row]) for row in lines]
    except csv.Error:
        raise InteropError("file: not CSV") from None
    rows = [(number, row) for number, row in rows if any(row)]
    while rows and all(len(row) > 1 and not row[-1] for _, row in rows):
        rows = [(number, row[:-1]) for number, row in rows]
    return rows


def read_npy(path: Path) -> Array:
    """The array of a `.npy`, mapped rather than read: a header that claims more than there is costs
    nothing."""
    with path.open("rb"):
        pass  # a file that cannot be opened is the caller's OSError, not damage
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (*_DAMAGE, OSError):
        raise InteropError("file: not a readable .npy array of numbers") from None
    if not isinstance(array, np.ndarray):
        array.close()
        raise InteropError("file: an .npz archive, expected one .npy array")
    return array


def read_npz(path: Path) -> dict[str, Array]:
    """The arrays of an `.npz`."""
    check_archive(path)
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {key: archive[key] for key in archive.files}
    except (*_DAMAGE, TypeError, AttributeError, OSError):
        raise InteropError("file: not a readable .npz archive of arrays") from None


def check_archive(path: Path) -> None:
    """`InteropError` unless the file is a zip archive that inflates to at most `MAX_ARRAY_BYTES`."""
    with path.open("rb"):
        pass
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(member.file_size for member in archive.infolist())
    except (*_DAMAGE, OSError):
        raise InteropError("file: not an archive") from None
    if size > MAX_ARRAY_BYTES:
        raise InteropError(f"file: inflates to {size} bytes, expected at most {MAX_ARRAY_BYTES}")


def write_whole(path: Path, content: bytes) -> None:
    """The file whole, or as it was before."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as temporary:
        try:
            temporary.write(content)
            temporary.flush()
            os.fsync(temporary.fileno())
            Path(temporary.name).chmod(0o644)
            Path(temporary.name).replace(path)
        except BaseException:
            Path(temporary.name).unlink(missing_ok=True)
            raise
