"""A store is verified: what is damaged is named, and nothing is changed."""

import os
import zipfile

import pytest
from test_store import VERSIONS, content, entry, segment_of, written
from test_tidying import age, killed, segments, store_of

from cw import StoreError
from cw.store import format as form
from cw.store.verifying import verify


def damage(path, position, data=b"\xff\x00\xff"):
    whole = bytearray(path.read_bytes())
    assert whole[position : position + len(data)] != data
    whole[position : position + len(data)] = data
    path.write_bytes(whole)


def test_a_store_without_damage(tmp_path):
    path = store_of(tmp_path / "s", [entry(1), entry(2, b"x" * (form.LARGE + 1))], [entry(3, status=1)])
    found = verify(path)
    assert (found.results, found.files, found.large, found.damages, found.lost) == (3, 2, 1, [], 0)
    assert (
        found.is_intact and str(found) == "3 results in 2 files, 1 of them large: 1.05MB; nothing is damaged"
    )
    assert found.bytes == sum(file.stat().st_size for file in [*path.glob("*.seg"), *path.glob("large/*")])


@pytest.mark.parametrize("size", [1, 700, 70_000])
def test_damaged_results_are_named_and_counted(tmp_path, size):
    path = written(tmp_path / "s", *(entry(n, b"x" * size) for n in range(10)))
    segment, step = segment_of(path), form.SIZE + 4 + size
    data = segment.read_bytes()
    places = [
        at for at in range(len(data)) if data.startswith(form.MAGIC, at) and data[at + 12] == form.RESULT
    ]
    assert len(places) == 10 and places[1] - places[0] == step
    damage(segment, places[2] + 30)  # in a record
    damage(segment, places[5] + 1)  # of the mark at its begin
    damage(segment, places[7] + 30)  # two that follow each other
    damage(segment, places[8] + 30)
    before = content(path)
    found = verify(path)
    assert [(each.position, each.size, each.lost) for each in found.damages] == [
        (places[2], step, 1), (places[5], step, 1), (places[7], 2 * step, 2),
    ]  # fmt: skip
    assert (found.results, found.lost, found.is_intact) == (6, 4, False)
    lines = str(found).splitlines()
    assert lines[0] == f"{segment.name}: {step:,} bytes at {places[2]:,} are damaged: 1 result is lost"
    assert lines[2].endswith("2 results are lost")
    assert lines[-1].startswith("6 results in 1 file, ") and "4 lost: run the script again" in lines[-1]
    assert content(path) == before


def test_large_results_that_are_missing_or_damaged_are_named(tmp_path):
    path = written(tmp_path / "s", *(entry(n, bytes([n]) * (form.LARGE + 1)) for n in range(3)))
    first, second, third = sorted((path / "large").iterdir())
    first.unlink()
    damage(second, 500_000)
    found = verify(path)
    assert [each.file for each in found.damages] == [f"large/{first.name}", f"large/{second.name}"]
    assert (found.results, found.large, found.lost) == (1, 1, 2)
    assert str(found).startswith(f"large/{first.name}: cannot be read: 1 result is lost\n")


def test_the_end_that_a_killed_program_has_left_is_no_damage(tmp_path):
    segment = killed(tmp_path / "s", entry(1), entry(2))
    segment.write_bytes(segment.read_bytes()[:-5])
    assert verify(tmp_path / "s").unfinished == []  # it may be being written
    age(segment, 120)
    found = verify(tmp_path / "s")
    assert found.is_intact and found.unfinished == [(segment.name, form.SIZE + 11 - 5)]
    assert f"{segment.name}: its program was killed; its last" in str(found)
    with segment.open("ab") as file:  # a power cut may leave zeros
        file.write(bytes(5000))
    damaged = verify(tmp_path / "s").damages
    assert [(each.position + each.size, each.lost) for each in damaged] == [(segment.stat().st_size, 1)]


@pytest.mark.parametrize("version", range(1, form.FORMAT + 1))
def test_stores_of_earlier_versions_are_intact(tmp_path, version):
    path = tmp_path / "s"
    with zipfile.ZipFile(VERSIONS / f"version{version}.zip") as archive:
        archive.extractall(path)
    assert verify(path).is_intact and verify(path).results == 5
    if version == 1:  # a sample of which two are made
        data = segment_of(path).read_bytes()
        damage(segment_of(path), data.find(bytes(range(256)) * 4) + 500)
        assert verify(path).lost == 2


def test_what_is_no_store_is_told(tmp_path):
    with pytest.raises(StoreError, match="there is no store"):
        verify(tmp_path / "s")
    path = written(tmp_path / "s", entry(1))
    assert segments(path)
    os.chmod(path, 0o500)
    assert verify(path).is_intact
    os.chmod(path, 0o700)
