"""Names of runs: which are allowed, who gets which, and where they lead."""

import json
import os

import pytest

import cw
from cw.runs import names


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("CW_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def store(tmp_path):
    (tmp_path / "sweep.cw").mkdir()
    return str(tmp_path / "sweep.cw")


def claim(name, store, live=(), **settings):
    return names.claim(name, store, lambda folder: folder in live, **settings)


@pytest.mark.parametrize("name", ["sweep", "sweep-2", "a.b", "x" * 64, "_1"])
def test_a_name_is_a_word(name):
    assert names.check_name(name) == name


@pytest.mark.parametrize("name", ["", "-n", ".hidden", "a b", "a/b", "..", "x" * 65, "ä"])
def test_what_would_be_an_option_or_a_path_is_no_name(name):
    with pytest.raises(ValueError, match="cannot be the name of a run"):
        names.check_name(name)


def test_a_run_is_named_after_its_store_or_script():
    assert names.default_name("/data/sweep.cw") == "sweep"
    assert names.default_name("/data/sweep.cw/") == "sweep"
    assert names.default_name("/data/my sweep.v2.cw") == "my_sweep.v2"
    assert names.default_name("/data/--.cw") == "run"


def test_a_claimed_name_leads_to_an_empty_folder_that_only_the_user_reads(store, home):
    name, folder = claim(None, store)
    assert (name, folder) == ("sweep", os.path.join(store, "runs", "sweep"))
    assert os.listdir(folder) == [] and os.stat(folder).st_mode & 0o777 == 0o700
    assert names.find("sweep") == folder and names.folders() == {"sweep": folder}
    assert json.loads((home / "runs" / "sweep.json").read_text()) == {"folder": folder}


def test_the_store_is_made_if_it_is_not_there(tmp_path):
    claim(None, str(tmp_path / "new.cw"))
    assert len(cw.results(tmp_path / "new.cw")) == 0


def test_a_script_has_its_folder_beside_the_names(home, tmp_path):
    assert claim(None, str(tmp_path / "train.py"), is_script=True) == ("train", str(home / "runs" / "train"))
    assert names.find("train") == str(home / "runs" / "train")


def test_what_an_ended_run_has_left_makes_room_for_the_next_of_its_name(store):
    _, folder = claim("mine", store)
    with open(os.path.join(folder, "output"), "w") as file:
        file.write("old")
    assert claim("mine", store) == ("mine", folder)
    assert os.listdir(folder) == []


def test_runs_of_a_store_beside_each_other_get_numbers(store):
    _, first = claim("mine", store)
    name, second = claim("mine", store, live=[first])
    assert name == "mine-2" and second != first and os.path.isdir(first)
    assert claim("mine", store, live=[first, second])[0] == "mine-3"
    assert claim("x" * 64, store, live=[claim("x" * 64, store)[1]])[0] == "x" * 62 + "-2"


def test_a_given_name_of_a_live_run_elsewhere_is_refused_and_a_default_one_gets_a_number(store, tmp_path):
    other = tmp_path / "other" / "sweep.cw"
    other.mkdir(parents=True)
    _, first = claim("sweep", store)
    with pytest.raises(cw.RunError, match="'sweep' has not ended.*give this one another name"):
        claim("sweep", str(other), live=[first])
    assert claim(None, str(other), live=[first])[0] == "sweep-2"
    assert claim("sweep", str(other)) == ("sweep", str(other / "runs" / "sweep"))  # the first has ended


def test_an_unknown_name_is_answered_with_the_known_ones(store):
    with pytest.raises(cw.RunError, match="there is no run 'swep' in .*: there is none"):
        names.find("swep")
    claim("one", store)
    claim("two", store)
    with pytest.raises(cw.RunError, match="there is no run 'swep' in .*: there are one, two"):
        names.find("swep")


def test_a_forgotten_run_is_gone_and_its_store_is_not(store, home):
    _, folder = claim("mine", store)
    names.forget("mine")
    assert not os.path.exists(folder) and os.path.isdir(store) and names.folders() == {}
    with pytest.raises(cw.RunError):
        names.forget("mine")
    assert os.listdir(home / "runs") == []


def test_a_damaged_note_is_no_name(store, home):
    claim("mine", store)
    for text in ("", "[]", "{", '{"folder": 7}'):
        (home / "runs" / "mine.json").write_text(text)
        assert names.folders() == {}
    assert claim("mine", store)[0] == "mine"


def test_the_runs_of_a_store_are_found_without_their_names_the_earliest_first(store, tmp_path):
    assert names.in_store(store) == names.in_store(str(tmp_path / "none")) == []
    for name, when in (("late", 2000), ("early", 1000)):
        _, folder = claim(name, store)
        with open(os.path.join(folder, "run.json"), "w"):
            pass
        os.utime(os.path.join(folder, "run.json"), (when, when))
    claim("begun", store)  # has no description yet
    assert [os.path.basename(each) for each in names.in_store(store)] == ["early", "late"]
