"""Recorded routing as routes, by hand and from damaged files."""

from pathlib import Path

import numpy as np
import pytest

from solvers.io.traces import Recording, read_recordings, routes_of
from solvers.problem import ProblemError


def test_tokens_become_routes() -> None:
    """Equal sets in any order are one route; in each layer the shares sum to one."""
    tokens = np.array([[[0, 3], [1, 2]], [[3, 0], [2, 0]], [[1, 0], [2, 1]], [[0, 3], [1, 2]]], np.uint8)
    routes = routes_of(Recording("x", tokens))
    found = {
        (int(b), tuple(e)): float(s)
        for b, e, s in zip(routes.block, routes.experts.tolist(), routes.share, strict=True)
    }
    assert found == {(0, (0, 3)): 0.75, (0, (0, 1)): 0.25, (1, (1, 2)): 0.75, (1, (0, 2)): 0.25}


def test_counts_become_single_calls() -> None:
    """Counts give routes of one expert, top_k per token and layer, none for experts never seen."""
    counted = Recording("x", np.array([[3, 1, 0], [0, 0, 5]], np.int32))
    routes = routes_of(counted, top_k=2)
    assert routes.block.tolist() == [0, 0, 1]
    assert routes.experts.tolist() == [[0], [1], [2]]
    assert routes.share.tolist() == [1.5, 0.5, 2.0]
    with pytest.raises(ProblemError, match="x: holds counts, expected top_k"):
        routes_of(counted)
    with pytest.raises(ProblemError, match=r"x\[0,1\]: is negative"):
        routes_of(Recording("x", np.array([[3, -1]])), top_k=2)


def test_parts_of_tokens() -> None:
    """A part is that fraction of the tokens, in their order; an empty or impossible one is refused."""
    recording = Recording("x", np.arange(10)[:, None, None])
    assert recording.part(0.2, 0.5).activations[:, 0, 0].tolist() == [2, 3, 4]
    for begin, end in ((0.5, 0.5), (0.0, 1.5), (0.0, 0.05)):
        with pytest.raises(ProblemError, match="x: part"):
            recording.part(begin, end)
    with pytest.raises(ProblemError, match="x: holds counts"):
        Recording("x", np.ones((2, 3), np.int64)).part(0.0, 0.5)


def test_impossible_tokens_are_named() -> None:
    """An expert twice in a token, or a negative one, is refused with its place."""
    for wrong in ([1, 1], [0, -1]):
        tokens = np.array([[[0, 1]], [wrong]])
        with pytest.raises(ProblemError, match=r"x\[1,0\]: experts"):
            routes_of(Recording("x", tokens))


def test_files(tmp_path: Path) -> None:
    """Arrays of tokens and of counts are found by name, lengths and the like passed over; anything else is
    one line."""
    path = tmp_path / "traces.npz"
    np.savez(path, a=np.zeros((4, 2, 1), np.uint8), b=np.ones((2, 3), np.int32), lengths=np.array([4]))
    found = read_recordings(path)
    assert {name: (r.counted, r.layers, r.experts) for name, r in found.items()} == {
        "a": (False, 2, 1),
        "b": (True, 2, 3),
    }
    np.savez(path, scores=np.zeros((4, 2, 1)), lengths=np.array([4]))
    with pytest.raises(ProblemError, match="file: no array"):
        read_recordings(path)
    np.savez(path, a=np.array([[{}]]))
    with pytest.raises(ProblemError, match="file: not a readable"):
        read_recordings(path)
    with path.open("wb") as stream:
        np.save(stream, np.zeros((4, 2, 1), np.uint8))
    with pytest.raises(ProblemError, match="file: not a readable"):
        read_recordings(path)
    path.write_bytes(b"PK\x03\x04 nothing")
    with pytest.raises(ProblemError, match="file: not a readable"):
        read_recordings(path)
    with pytest.raises(FileNotFoundError):
        read_recordings(tmp_path / "missing.npz")
