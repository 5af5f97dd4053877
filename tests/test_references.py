"""Sentinels of modules, which programs compare with `is`: those of the runner's own modules."""

import collections
import dataclasses
import decimal
import pickle
import threading

import pytest
from test_byvalue import run_script  # noqa: F401  (a fixture)

from cw.payloads.references import refer


class Unset:
    pass


UNSET, OTHER = Unset(), object()


def there_and_back(value):
    return pickle.loads(pickle.dumps(refer(value)))


@pytest.mark.parametrize("value", [dataclasses.MISSING, UNSET, OTHER], ids=["library", "class", "object"])
def test_a_sentinel_of_a_module_is_the_same_object(value):
    assert there_and_back(value) is value


def test_a_sentinel_that_its_module_has_no_more_is_another_one(monkeypatch):
    data = pickle.dumps(refer(UNSET))
    monkeypatch.delitem(globals(), "UNSET")
    again = pickle.loads(data)
    assert type(again) is Unset and again is not OTHER
    assert refer(again) is again


@pytest.mark.parametrize(
    "value",
    [3, None, "text", [1], Unset, object(), Unset(), collections.Counter(), threading.Lock(), decimal.Decimal(1),
     dataclasses.field()],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_all_else_is_taken_as_it_is(value):
    assert refer(value) is value


def test_the_script_finds_the_sentinels_that_it_has_imported(run_script):  # noqa: F811
    run_script(
        """
    import dataclasses
    from dataclasses import MISSING
    from functools import _initial_missing as OF_A_MODULE
    OWN = object()
    def of_global(): return MISSING is dataclasses.MISSING
    def of_default(x=MISSING): return x is MISSING
    def of_own(x=OWN): return x is OWN
    class C:
        unset = MISSING
        def is_unset(self): return self.unset is MISSING is dataclasses.MISSING
    def of_both():
        import functools
        return OF_A_MODULE is functools._initial_missing
    with PipeRunner() as runner:
        for function in (of_global, of_default, of_own, C().is_unset, of_both):
            assert runner.call(function), function
            assert runner.call(function), function
        MISSING = 3
        assert not runner.call(of_global)
        MISSING = dataclasses.MISSING
        assert runner.call(of_global)
    """
    )
