"""Files that name the machines of a job."""

import pytest

from cw.machine import hostfile


@pytest.mark.parametrize(
    "text",
    [
        "n1\nn1\nn2\n",
        "# of Open MPI\nn1 slots=4 max_slots=8\n\nn2 slots=4  # the last\n",
        "n1:4\nn2:4\n",
        "  n1\n\tn2",
    ],
)
def test_each_host_is_named_once_however_the_file_says_it(tmp_path, text):
    (tmp_path / "hosts").write_text(text)
    assert hostfile.read(str(tmp_path / "hosts")) == ("n1", "n2")


def test_addresses_are_hosts_too(tmp_path):
    (tmp_path / "hosts").write_text("10.0.0.1:4\nfd00::1\nfd00::2 slots=2\n")
    assert hostfile.read(str(tmp_path / "hosts")) == ("10.0.0.1", "fd00::1", "fd00::2")


def test_a_file_without_hosts_is_a_mistake(tmp_path):
    (tmp_path / "hosts").write_text("# none\n\n")
    with pytest.raises(ValueError, match="names no host: give one a line$"):
        hostfile.read(str(tmp_path / "hosts"))
    with pytest.raises(ValueError, match="cannot be read: No such file"):
        hostfile.read(str(tmp_path / "none"))
