import pytest

from app.errors import DamagedRecord
from app.schema import Schema
from app.storage.records import read_record, record_json


class _Part(Schema):
    size: int = 1


class _Whole(Schema):
    name: str
    part: _Part = _Part()
    parts: list[_Part] = []
    by_name: dict[str, _Part] = {}


NEWER = (
    b'{"name":"a","part":{"size":2,"colour":"red"},"parts":[{"size":3},{"size":4,"since":[1,2]}],'
    b'"by_name":{"k":{"size":5,"x":null}},"owner":{"team":"edge"}}'
)


def test_a_record_of_a_newer_version_is_read() -> None:
    """Unknown fields at any depth do not keep an older process from reading the known ones."""
    record = read_record(_Whole, NEWER, "key")
    assert (record.name, record.part.size, [part.size for part in record.parts]) == ("a", 2, [3, 4])


def test_a_record_written_back_keeps_the_fields_that_its_writer_does_not_know() -> None:
    """Read, change one field, write: only that field differs."""
    record = read_record(_Whole, NEWER, "key").model_copy(update={"name": "b"})
    assert record_json(record) == NEWER.replace(b'"name":"a"', b'"name":"b"')


def test_a_record_without_unknown_fields_is_written_as_it_is() -> None:
    """The common case costs no second encoding."""
    record = _Whole(name="a")
    assert record_json(record) == record.model_dump_json().encode()


@pytest.mark.parametrize("stored", [b"", b"{", b'{"name": 1}', b"[]", b"\xff"])
def test_a_damaged_record_names_its_key(stored: bytes) -> None:
    """An operator learns which key to mend, and that the service itself is well."""
    with pytest.raises(DamagedRecord, match=r"moeplace:\{lab\}:cluster.*_Whole") as raised:
        read_record(_Whole, stored, "moeplace:{lab}:cluster")
    assert raised.value.status == 503
