"""What users write for sizes and amounts."""

import pytest

from cw.needs import UNITS_PER_GPU, format_bytes, pick_devices, to_amounts, to_bytes, to_gpus


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("8GB", 8 * 10**9), ("8G", 8 * 10**9), ("8 gb", 8 * 10**9), ("8GiB", 8 * 2**30), ("512MiB", 512 * 2**20),
        ("1.5k", 1500), (".5M", 500_000), ("70", 70), ("70B", 70), (70, 70), (7e3, 7000), ("2TB", 2 * 10**12),
    ],
)  # fmt: skip
def test_a_size_may_have_a_unit(text, count):
    assert to_bytes("memory", text) == count


@pytest.mark.parametrize(
    "text", ["", "GB", "-1GB", "8XB", "8GBs", "1e3", 0, -1, "0GB", 10**30, float("nan"), "1.2.3"]
)
def test_what_is_no_size_is_refused(text):
    with pytest.raises(ValueError, match="^memory must be "):
        to_bytes("memory", text)


@pytest.mark.parametrize(
    ("count", "text"), [(1, "1B"), (8 * 10**9, "8GB"), (1_500_000, "1.5MB"), (2**30, "1.07GB")]
)
def test_sizes_in_messages_are_short(count, text):
    assert format_bytes(count) == text


def test_parts_of_a_device_are_kept_to_its_smallest_share():
    assert to_gpus("gpus", 1 / 3) == 0.3333 and to_gpus("gpus", 2) == 2 and to_gpus("gpus", 1e-4) == 1e-4
    assert to_gpus("gpus", 0) == 0  # as a program computes it
    for wrong in (-1, 1.5, 1e-9, float("nan"), float("inf"), 5000):
        with pytest.raises(ValueError, match="^gpus must be "):
            to_gpus("gpus", wrong)


def test_amounts_may_come_as_pairs():
    assert to_amounts("resources", [["b", 2], ["a", 1]]) == to_amounts("resources", {"a": 1, "b": 2})
    assert to_amounts("resources", {}) == ()


def test_what_has_an_option_is_no_amount_of_the_users_own():
    with pytest.raises(
        ValueError, match="resources: 'gpus' is not a name of your own: give it as the option gpus"
    ):
        to_amounts("resources", {"gpus": 1, "licence": 2})


@pytest.mark.parametrize(
    ("free", "gpus", "picked"),
    [
        ([1.0, 1.0], 0, ()),
        ([1.0, 0.5, 0.6], 0.5, (1,)),  # the least that suffices: the whole one stays whole
        ([0.4, 1.0], 0.5, (1,)),
        ([0.4, 0.4], 0.5, None),  # of one device
        ([0.9, 1.0, 1.0], 1, (1,)),
        ([1.0, 0.9, 1.0], 2, (0, 2)),
        ([1.0, 0.9, 0.9], 2, None),
        ([], 1, None),
        ([], 0.5, None),
    ],
)
def test_a_part_of_a_device_comes_from_the_fullest_that_has_it(free, gpus, picked):
    assert (
        pick_devices([round(shares * UNITS_PER_GPU) for shares in free], round(gpus * UNITS_PER_GPU))
        == picked
    )
