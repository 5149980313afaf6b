"""The console's files, read and compressed once."""

from functools import cache
from importlib.resources import files as resources
from importlib.resources.abc import Traversable
from typing import NamedTuple

from app.storage.documents import EncodedDocument, encode_document

MEDIA_TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
    "LICENSE": "text/plain; charset=utf-8",
    "txt": "text/plain; charset=utf-8",
}


class File(NamedTuple):
    media_type: str
    document: EncodedDocument


@cache
def files() -> dict[str, File]:
    """Path below `static/` -> file; takes milliseconds the first time: call it in a thread then."""
    return dict(_below(resources("app.console") / "static", ""))


def _below(folder: Traversable, prefix: str) -> list[tuple[str, File]]:
    found: list[tuple[str, File]] = []
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        path = prefix + entry.name
        if entry.is_dir():
            found += _below(entry, path + "/")
        elif media_type := MEDIA_TYPES.get(entry.name.rpartition(".")[2]):
            document = encode_document(entry.read_bytes(), uid="console", generation=0)
            found.append((path, File(media_type, document)))
    return found
