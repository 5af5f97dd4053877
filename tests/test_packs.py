"""Packs: the form in which files travel."""

import random

import pytest

from cw.errors import PayloadError
from cw.travel import packs
from cw.travel.packs import HERE, Entry


def entry(path, size=10, root="/r"):
    return Entry(root, path, size, 1, False)


def test_files_come_out_as_they_went_in():
    contents = [b"", b"text\n", bytes(range(256))]
    entries = [entry(f"é{n}\udcff.py", len(data)) for n, data in enumerate(contents)]
    found = list(packs.load(packs.dump(entries, contents)))
    assert [each for each, _ in found] == entries and [bytes(data) for _, data in found] == contents


def test_the_size_is_that_of_what_was_read():
    ((found, data),) = packs.load(packs.dump([entry("grown", 3)], [b"longer"]))
    assert found.size == 6 and bytes(data) == b"longer"


def test_each_large_file_has_a_pack_and_small_ones_share_those_of_their_root():
    sizes = random.Random(3)
    entries = [
        entry(f"f{n}", sizes.choice([10, packs.LARGE]), sizes.choice(["/r", HERE])) for n in range(300)
    ]
    groups = packs.group(entries)
    assert sorted(each for group in groups for each in group) == sorted(entries)
    for group in groups:
        assert len({each.root for each in group}) == 1
        assert len(group) == 1 or all(each.size < packs.LARGE for each in group)
    small = [group for group in groups if group[0].size < packs.LARGE]
    assert len(small) < 300 / packs.TOGETHER * 3


def test_an_edit_changes_one_pack_and_a_new_file_one_or_two():
    entries = [entry(f"module{n}.py") for n in range(500)]
    before = {tuple(group) for group in packs.group(entries)}
    entries[123] = entries[123]._replace(size=999, modified=2)
    edited = {tuple(group) for group in packs.group(entries)}
    assert len(edited - before) == 1
    assert len({tuple(group) for group in packs.group([*entries, entry("module77b.py")])} - edited) <= 2


def test_no_files_are_no_pack():
    assert packs.group([]) == []


@pytest.mark.parametrize("payload", [b"", b"\x05\0\0\0[1,2]", b"\x02\0\0\0[["])
def test_another_payload_is_refused(payload):
    with pytest.raises(PayloadError, match="a pack of files"):
        list(packs.load(payload))
