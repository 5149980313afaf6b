"""The experts on disk: what is whole stays, what is not never counts."""

import os
import time
from pathlib import Path

import pytest

from moeplace_agent.experts.directory import MAX_PARTIALS, DirectoryInUse, ExpertDirectory, StoredExpert
from moeplace_agent.experts.safetensors import MalformedFile
from moeplace_agent.holdings import ExpertKey
from tests.agent.experts import KEY, ExpertFile, expert_file, tree


def kept(directory: ExpertDirectory, file: ExpertFile, device_id: str = "gpu-0") -> StoredExpert:
    partial = directory.partial(file.key, file.digest)
    partial.write_bytes(file.body)
    return directory.keep(file.key, file.digest, device_id, partial)


def reopened(directory: ExpertDirectory, root: Path) -> tuple[ExpertDirectory, list[StoredExpert]]:
    directory.close()
    again = ExpertDirectory(root)
    return again, again.recover()


def test_what_is_kept_is_found_after_a_restart(tmp_path: Path) -> None:
    """Key, device, digest and size of every whole expert are known from the tree alone."""
    directory = ExpertDirectory(tmp_path)
    files = [expert_file(ExpertKey("m", 1, e), 1000 + e) for e in range(3)]
    stored = [kept(directory, file, f"gpu-{e}") for e, file in enumerate(files)]
    assert [(s.size, s.data_bytes) for s in stored] == [(len(f.body), f.data_bytes) for f in files]
    again, found = reopened(directory, tmp_path)
    assert found == stored
    assert again.find(files[1].key) == stored[1]
    again.remove(files[1].key)
    assert again.find(files[1].key) is None
    assert len(reopened(again, tmp_path)[1]) == 2


@pytest.mark.parametrize("damage", ["flipped", "shortened", "lengthened", "emptied", "swapped"])
def test_a_damaged_file_is_deleted_at_the_start(damage: str, tmp_path: Path) -> None:
    """Whatever happened to the bytes while nobody looked, the expert does not count as whole."""
    directory = ExpertDirectory(tmp_path)
    stored, other = kept(directory, expert_file()), kept(directory, expert_file(ExpertKey("m", 3, 8)))
    body = bytearray(stored.path.read_bytes())
    match damage:
        case "flipped":
            body[-1] ^= 1
        case "shortened":
            del body[-1]
        case "lengthened":
            body.append(0)
        case "emptied":
            body.clear()
        case "swapped":
            body[:] = other.path.read_bytes()
    stored.path.write_bytes(body)
    again, found = reopened(directory, tmp_path)
    assert found == [other]
    assert not stored.path.exists()
    again.close()


def test_a_file_changed_while_running_is_noticed_and_given_up(tmp_path: Path) -> None:
    """The next time somebody wants it: hashed again, and deleted when it is not what it was."""
    directory = ExpertDirectory(tmp_path)
    stored = kept(directory, expert_file())
    assert stored.unchanged()
    os.utime(stored.path, (0, 0))
    assert not stored.unchanged()
    touched = directory.reverify(stored)
    assert touched is not None
    assert touched.digest == stored.digest
    assert directory.find(KEY) == touched
    with touched.path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\x00" if stored.path.read_bytes()[-1] else b"\x01")
    assert directory.reverify(touched) is None
    assert directory.find(KEY) is None
    assert tree(tmp_path) == []


def test_the_wrong_expert_is_never_kept_however_right_its_digest(tmp_path: Path) -> None:
    """A source that serves another expert, or no expert, under a digest of its own: refused by the file's
    header."""
    directory = ExpertDirectory(tmp_path)
    other = expert_file(ExpertKey("m", 3, 8))
    partial = directory.partial(KEY, other.digest)
    partial.write_bytes(other.body)
    with pytest.raises(MalformedFile, match="expert"):
        directory.keep(KEY, other.digest, "gpu-0", partial)
    partial.write_bytes(b"<html>not found</html>")
    with pytest.raises(MalformedFile):
        directory.keep(KEY, other.digest, "gpu-0", partial)
    assert directory.find(KEY) is None


def test_an_expert_has_one_place(tmp_path: Path) -> None:
    """It moves to another device without being copied; a second version of it replaces the first."""
    directory = ExpertDirectory(tmp_path)
    stored = kept(directory, expert_file())
    moved = directory.rehome(stored, "gpu-1")
    assert (moved.device_id, moved.digest) == ("gpu-1", stored.digest)
    newer = kept(directory, expert_file(seed=1))
    assert tree(tmp_path) == [str(newer.path.relative_to(tmp_path))]
    # As a kill between the two steps of a replacement leaves it.
    stored.path.write_bytes(expert_file().body)
    again, found = reopened(directory, tmp_path)
    assert len(found) == 1
    assert len(tree(tmp_path)) == 1
    again.close()


def test_interrupted_downloads_are_kept_but_not_without_end(tmp_path: Path) -> None:
    """The newest few survive a restart; `begun` finds the digest of what to go on with."""
    directory = ExpertDirectory(tmp_path)
    for number in range(MAX_PARTIALS + 3):
        path = directory.partial(ExpertKey("m", 0, number), f"{number:064x}")
        path.write_bytes(b"x")
        os.utime(path, (number, number))
    again, _ = reopened(directory, tmp_path)
    assert len(tree(tmp_path)) == MAX_PARTIALS
    assert again.begun(ExpertKey("m", 0, 0)) is None
    assert again.begun(ExpertKey("m", 0, MAX_PARTIALS + 2)) == f"{MAX_PARTIALS + 2:064x}"
    again.close()


def test_two_agents_cannot_share_it(tmp_path: Path) -> None:
    """The second is told so; when the first ends it may."""
    directory = ExpertDirectory(tmp_path)
    with pytest.raises(DirectoryInUse, match="another agent"):
        ExpertDirectory(tmp_path)
    directory.close()
    ExpertDirectory(tmp_path).close()


def test_orders_cannot_name_paths(tmp_path: Path) -> None:
    """Names from the network are ids or nothing."""
    directory = ExpertDirectory(tmp_path / "in")
    file = expert_file()
    for key in (ExpertKey("../../out", 0, 0), ExpertKey("", 0, 0), ExpertKey("/etc", 0, 0)):
        with pytest.raises(ValueError, match="is not an id"):
            directory.partial(key, file.digest)
    with pytest.raises(ValueError, match="is not a SHA-256"):
        directory.partial(KEY, "../x")
    partial = directory.partial(KEY, file.digest)
    partial.write_bytes(file.body)
    with pytest.raises(ValueError, match="is not an id"):
        directory.keep(KEY, file.digest, "../gpu", partial)


def test_strangers_are_left_alone(tmp_path: Path) -> None:
    """A file that is no expert's is neither loaded nor deleted."""
    directory = ExpertDirectory(tmp_path)
    stranger = tmp_path / "experts" / "gpu-0" / "m" / "0" / "notes.txt"
    stranger.parent.mkdir(parents=True)
    stranger.write_text(time.ctime())
    again, found = reopened(directory, tmp_path)
    assert found == []
    assert stranger.exists()
    again.close()


def test_a_change_whose_time_was_set_back_is_noticed(tmp_path: Path) -> None:
    """Other bytes of the same length under the old time of change: the file does not count as unchanged."""
    directory = ExpertDirectory(tmp_path)
    stored = kept(directory, expert_file())
    before = stored.path.stat()
    with stored.path.open("r+b") as file:
        file.seek(-5, os.SEEK_END)
        file.write(b"!!!!!")
    os.utime(stored.path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert not stored.unchanged()
    directory.close()
