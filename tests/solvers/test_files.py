"""Instance and placement files: written and read back, and refused when malformed."""

import io
import math
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from solvers.algorithms import solve
from solvers.cost.evaluate import total_cost
from solvers.io.files import load_placement, load_problem, load_result, save_placement, save_problem
from solvers.problem import ProblemError
from solvers.result import SolveStatus
from tests.oracles.instances import random_problem


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("files")


@given(st.integers(0, 2**32))
@settings(max_examples=40)
def test_problem_comes_back(folder: Path, seed: int) -> None:
    """Every key of a problem survives the file."""
    problem = random_problem(seed)
    save_problem(folder / "a.npz", problem)
    back = load_problem(folder / "a.npz")
    for key, value in vars(problem).items():
        if key in type(problem).__dataclass_fields__:
            np.testing.assert_array_equal(getattr(back, key), value)
    save_problem(folder / "b.npz", back)
    assert (folder / "a.npz").read_bytes() == (folder / "b.npz").read_bytes()


def test_result_comes_back(tmp_path: Path) -> None:
    """A placement file carries the placement with its evidence, and INFEASIBLE its shortfall and no
    placement."""
    problem = random_problem(5, nodes=3, blocks=[3], slack=2.0, extras=False).replace(min_replicas=1)
    result = solve(problem)
    save_placement(tmp_path / "p.npz", result)
    back = load_result(tmp_path / "p.npz")
    assert back.placement is not None
    assert result.placement is not None
    assert back.placement.digest == result.placement.digest
    assert (back.status, back.objective, back.lower_bound) == (
        result.status,
        result.objective,
        result.lower_bound,
    )
    assert back.gap_ratio == result.gap_ratio
    assert total_cost(problem, load_placement(tmp_path / "p.npz").holds) == result.objective
    unbounded = solve(problem, "sgd", params={"bound_steps": 0})
    save_placement(tmp_path / "p.npz", unbounded)
    assert load_result(tmp_path / "p.npz").lower_bound is None
    infeasible = solve(problem.replace(capacity_bytes=np.zeros(3, np.int64), min_replicas=1))
    assert infeasible.status is SolveStatus.INFEASIBLE
    save_placement(tmp_path / "i.npz", infeasible)
    assert load_result(tmp_path / "i.npz").shortfall == infeasible.shortfall
    with pytest.raises(ProblemError, match="holds: absent, the file says INFEASIBLE"):
        load_placement(tmp_path / "i.npz")


def _members(problem_file: Path) -> dict[str, Any]:
    with np.load(problem_file) as archive:
        return {key: archive[key] for key in archive.files}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": None}, "format: missing"),
        ({"format": np.array("moeplace-instance/9")}, "format: is 'moeplace-instance/9'"),
        ({"format": np.array(3)}, "format: has type int64 and shape ()"),
        ({"route_rate": None}, "route_rate: missing"),
        ({"route_rate": np.array([[1.0]])}, "route_rate: has 2 dimensions"),
        ({"min_replicas": np.array([1])}, "min_replicas: has type int64 and shape (1,)"),
        ({"min_replicas": np.array(1.0)}, "min_replicas: has type float64"),
        ({"coupling": np.array("odd")}, "coupling: is 'odd'"),
        ({"coupling": np.array(["sum"])}, "coupling: has type <U3 and shape (1,)"),
        ({"horizon_seconds": np.array(-1.0)}, "horizon_seconds: is -1.0"),
        ({"curent": np.zeros(3)}, "'curent': unknown key"),
        ({"expert_bytes": np.array([1j])}, "expert_bytes: has type complex128"),
    ],
)
def test_refuses_wrong_content(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    """A missing, unknown or mistyped key is named."""
    save_problem(tmp_path / "a.npz", random_problem(1))
    content = _members(tmp_path / "a.npz") | change
    arrays: dict[str, Any] = {key: value for key, value in content.items() if value is not None}
    np.savez(tmp_path / "b.npz", **arrays)
    with pytest.raises(ProblemError) as caught:
        load_problem(tmp_path / "b.npz")
    assert str(caught.value).startswith(message)


class _Trap:
    """Unpickling it would fail the test."""

    def __reduce__(self) -> Any:
        return pytest.fail, ("unpickled",)


def _with_member(source: Path, target: Path, name: str, content: bytes) -> None:
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as new:
        for info in old.infolist():
            if info.filename != name:
                new.writestr(info, old.read(info))
        new.writestr(name, content)


def test_refuses_pickles_and_lies(tmp_path: Path) -> None:
    """Object arrays are never unpickled, and a header that promises more than is stored allocates nothing."""
    good, bad = tmp_path / "a.npz", tmp_path / "b.npz"
    save_problem(good, random_problem(1))
    trap = io.BytesIO()
    np.save(trap, np.array([_Trap()], dtype=object), allow_pickle=True)
    huge = io.BytesIO()
    np.lib.format.write_array_header_1_0(huge, {"descr": "<f8", "fortran_order": False, "shape": (2**28,)})
    absurd = io.BytesIO()
    np.lib.format.write_array_header_1_0(absurd, {"descr": "<f8", "fortran_order": False, "shape": (2**60,)})
    negative = huge.getvalue().replace(b"(268435456,)", b"(-26843545,)")
    for content, message in (
        (trap.getvalue(), "route_rate: has type object"),
        (huge.getvalue(), "route_rate: has shape (268435456,), more than the file holds"),
        (absurd.getvalue(), "route_rate: has shape (1152921504606846976,), above the limit"),
        (negative, "route_rate: "),
        (b"\x93NUMPY\x01\x00", "route_rate: damaged"),
        (b"", "route_rate: damaged"),
        (b"\x93NUMPY\x01\x00\x10\x00{'descr': ('<f8'", "route_rate: damaged"),
        (b"\x93NUMPY\x07\x00" + bytes(100), "route_rate: "),
    ):
        _with_member(good, bad, "route_rate.npy", content)
        with pytest.raises(ProblemError) as caught:
            load_problem(bad)
        assert str(caught.value).startswith(message)


def test_damage_anywhere_is_a_problem_error(tmp_path: Path) -> None:
    """Files cut short or with a flipped byte are refused, or read as a valid problem, and nothing else
    happens."""
    path = tmp_path / "a.npz"
    save_problem(path, random_problem(2))
    whole = path.read_bytes()
    refused, lines = 0, set()
    for position in range(0, len(whole), 13):
        for damaged in (
            whole[:position],
            whole[:position] + bytes([whole[position] ^ 255]) + whole[position + 1 :],
        ):
            path.write_bytes(damaged)
            try:
                load_problem(path)
            except ProblemError as error:
                refused += 1
                lines.add(len(str(error).splitlines()))
    assert refused > len(whole) // 13
    assert lines == {1}


def test_refuses_repeated_members(tmp_path: Path) -> None:
    """A zip with one name twice is ambiguous."""
    save_problem(tmp_path / "a.npz", random_problem(1))
    with (
        pytest.warns(UserWarning, match="Duplicate name"),
        zipfile.ZipFile(tmp_path / "a.npz", "a") as archive,
    ):
        archive.writestr("route_rate.npy", b"")
    with pytest.raises(ProblemError, match="'route_rate': in the file twice"):
        load_problem(tmp_path / "a.npz")


def test_fortran_order_and_byte_order_are_read(tmp_path: Path) -> None:
    """Other tools may write columns first, or big-endian numbers."""
    problem = random_problem(7, nodes=3, blocks=[3], extras=False)
    save_problem(tmp_path / "a.npz", problem)
    content = _members(tmp_path / "a.npz")
    content["latency_seconds"] = np.asfortranarray(content["latency_seconds"])
    content["route_rate"] = content["route_rate"].astype(">f8")
    np.savez(tmp_path / "b.npz", **content)
    back = load_problem(tmp_path / "b.npz")
    np.testing.assert_array_equal(back.latency_seconds, problem.latency_seconds)
    np.testing.assert_array_equal(back.route_rate, problem.route_rate)


def test_writing_is_all_or_nothing(tmp_path: Path) -> None:
    """A write that fails leaves the old file and no temporary one."""
    problem = random_problem(1)
    with pytest.raises(OSError, match="No such file"):
        save_problem(tmp_path / "missing" / "a.npz", problem)
    save_problem(tmp_path / "a.npz", problem)
    assert [path.name for path in tmp_path.iterdir()] == ["a.npz"]
    assert not math.isnan(problem.route_rate.sum())
