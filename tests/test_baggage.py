"""What travels with a session, at the client: edits, and the decision that modules travel; and functions that move."""

import importlib
import os
import sys

import pytest
from conftest import events

from cw.client.functions.functions import FunctionTable
from cw.client.session.objects import ObjectTable
from cw.errors import EnvironmentMismatch
from cw.payloads import objects
from cw.payloads.environment import dump_environment, load_environment
from cw.travel import choice, packs
from cw.travel.baggage import Baggage
from cw.travel.moving import moved


@pytest.fixture
def here(tmp_path, monkeypatch):
    (tmp_path / "lab_of_baggage.py").write_text("X = 1\n")
    (tmp_path / "data").write_text("1")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    importlib.invalidate_caches()
    return tmp_path


def packed(baggage):
    """The contents of what it packs, by path."""
    payloads = []
    numbers = baggage.pack(lambda payload: payloads.append(payload) or len(payloads))
    assert numbers == list(range(1, len(payloads) + 1))
    return {entry.path: bytes(data) for payload in payloads for entry, data in packs.load(payload)}


def missing(name):
    return ModuleNotFoundError(f"No module named {name!r}", name=name)


def test_nothing_travels_by_itself_and_then_nothing_is_looked_at(here, monkeypatch):
    monkeypatch.setattr(choice, "choose", None)
    baggage = Baggage()
    assert not baggage and packed(baggage) == {} and not baggage.look(is_due=True)
    assert baggage.for_environment() == (None, None, True)


def test_what_is_named_travels_and_edits_are_seen(here, caplog):
    caplog.set_level("INFO")
    baggage = Baggage(["lab_of_baggage"], ["data"])
    assert not baggage.look(is_due=True)  # nothing has been packed
    assert packed(baggage) == {"lab_of_baggage.py": b"X = 1\n", "data": b"1"}
    assert baggage.travelling.here == str(here) and not baggage.look(is_due=True)
    (here / "data").write_text("22")
    assert baggage.look(is_due=True) and not baggage.look(is_due=True)
    assert events(caplog) == ["client.files_changed"] and "(data)" in caplog.text
    assert packed(baggage)["data"] == b"22"
    (here / "data").unlink()
    assert baggage.look(is_due=True) and packed(baggage).keys() == {"lab_of_baggage.py"}


def test_it_is_looked_at_only_as_often_as_that_is_cheap(here, monkeypatch):
    baggage = Baggage(files=["data"])
    packed(baggage)
    (here / "data").write_text("22")
    monkeypatch.setattr(baggage, "_due", float("inf"))
    assert not baggage.look() and baggage.look(is_due=True)


def test_own_modules_travel_after_a_job_that_lacks_them_and_not_for_other_errors(here, caplog):
    baggage = Baggage()
    for error in None, OSError("x"), ImportError("x"), missing("numpy_of_nobody"), missing("json"):
        assert not baggage.decide(error)
    assert baggage.is_automatic and baggage.decide(missing("lab_of_baggage.part"))
    assert not baggage.is_automatic and "lab_of_baggage.py" in packed(baggage)
    assert baggage.decide(OSError("x")) and events(caplog) == ["client.files_travel"]


def test_a_missing_working_directory_is_one_unless_the_user_has_named_it(here):
    assert Baggage().decide(EnvironmentMismatch("x"))
    assert not Baggage(workdir="/srv").decide(EnvironmentMismatch("x"))
    for modules in False, []:
        baggage = Baggage(modules)
        assert not baggage.decide(EnvironmentMismatch("x")) and not baggage.is_automatic


def test_what_is_too_large_stays_and_is_told_once(here, monkeypatch, caplog):
    monkeypatch.setenv("CW_TRAVEL_LIMIT", "5")
    baggage = Baggage()
    for _ in range(2):
        assert not baggage.decide(EnvironmentMismatch("x"))
    assert events(caplog) == ["client.files_stay"] and "the largest: " in caplog.text
    with pytest.raises(ValueError, match="more than 5B"):
        Baggage(["lab_of_baggage"])


def table_with(baggage):
    return ObjectTable(lambda: dump_environment(b"", *baggage.for_environment()), baggage.pack)


def test_an_environment_needs_the_packs_and_a_new_one_sends_what_has_changed(here):
    (here / "large").write_bytes(bytes(packs.LARGE))
    baggage = Baggage(files=["data", "large"])
    table = table_with(baggage)
    first = table.get(table.environment)
    numbers = [need.number for need in first.needs]
    assert load_environment(first.payload).travelling == (str(here), numbers) and len(numbers) == 2
    (here / "data").write_text("22")
    table.renew_environment()
    again = [need.number for need in table.get(table.environment).needs]
    (kept,) = {*again} & {*numbers}
    assert table.get(kept).size > packs.LARGE
    gone = {item.number for item in table.forget_dropped(())}
    assert gone == {first.number, *numbers} - {kept}


def test_a_function_moves_to_the_present_environment_with_its_initializer(here):
    table = table_with(Baggage())
    functions = FunctionTable(table)
    number, _ = functions.call(os.getcwd, (), {})
    made = table.get(number)
    other = table.add(0, [need.number for need in made.needs], made.payload + b"")
    value = table.add(1, (), b"arguments")
    with_first = objects.load_function(made.payload)._replace(first=(other, value))
    needs = [*[need.number for need in made.needs], other, value]
    whole = table.add(0, needs, objects.dump_function(with_first))
    assert moved(table, whole) == whole
    table.renew_environment()
    found = table.get(moved(table, whole))
    first, args = objects.load_function(found.payload).first
    assert found.number != whole and args == value
    assert {found.runs_in, table.get(first).runs_in} == {table.environment}
    assert found.estimate is made.estimate and {first, value} < {need.number for need in found.needs}
    assert not {whole, other, made.runs_in} & {need.number for need in found.needs}
    assert table.names[found.number] == table.names.get(whole, "")
