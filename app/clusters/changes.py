"""What a request changes of a cluster's settings."""

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from app.clusters.schemas import ClusterSettings
from app.http.noted import Change


def settled(settings: ClusterSettings) -> ClusterSettings:
    """With the default of `min_replicas` where it was left out: 0 with an origin, which then serves what no
    node has room for, and 1 without one."""
    if settings.origin is None or "min_replicas" in settings.model_fields_set:
        return settings
    return settings.model_copy(update={"min_replicas": 0})


def merged(document: Any, patch: Any) -> Any:
    """`document` changed by a JSON merge patch (RFC 7396): members of `patch` replace those of the document,
    objects are merged into objects, and null removes a member."""
    if not isinstance(patch, dict):
        return patch
    result = dict(document) if isinstance(document, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = merged(result.get(name), value)
    return result


def changes(before: ClusterSettings | None, after: ClusterSettings) -> list[Change]:
    """Each setting that differs, by JSON pointer, in order; of a new cluster (None) from the defaults."""
    old = dict(_leaves((before or ClusterSettings()).model_dump(mode="json")))
    new = dict(_leaves(after.model_dump(mode="json")))
    pointers = sorted(pointer for pointer in old.keys() | new.keys() if old.get(pointer) != new.get(pointer))
    return [Change(pointer=at, old=old.get(at), new=new.get(at)) for at in pointers]


def reset(before: ClusterSettings, after: ClusterSettings, given: ClusterSettings) -> list[str]:
    """Pointers of the settings that differ although the request, `given`, did not name them: they went back
    to their defaults."""
    named = set(_named(given))
    return [
        change.pointer
        for change in changes(before, after)
        if not any(change.pointer == name or change.pointer.startswith(f"{name}/") for name in named)
        and not any(name.startswith(f"{change.pointer}/") for name in named)
    ]


def _named(given: BaseModel, prefix: str = "") -> Iterator[str]:
    """Pointers of what a request named, as deep as it went."""
    for name in given.model_fields_set:
        value = getattr(given, name)
        at = f"{prefix}/{name}"
        if isinstance(value, BaseModel) and value.model_fields_set:
            yield from _named(value, at)
        else:
            yield at


def _leaves(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, member in value.items():
        at = f"{prefix}/{name}"
        if isinstance(member, Mapping):
            yield from _leaves(member, at)
        else:
            yield at, member
