"""A generator that travels with a function is found, and its user is warned, once."""

import functools
import random
import sys
import types
import warnings
from random import random as shared_function

import numpy as np
import pytest

import cw
from cw.client.functions.functions import FunctionTable
from cw.payloads import generators

rng = random.Random(1)


class OwnGenerator(random.Random):
    pass


own = OwnGenerator(2)
options = {"draws": [np.random.RandomState(3)]}


class Model:
    shared = np.random.default_rng(4)

    def __init__(self):
        self.rng = np.random.default_rng(5)

    def __call__(self, x):
        return x

    def fit(self, x):
        return self.rng.random() + x


class Slotted:
    __slots__ = ("rng",)

    def __init__(self):
        self.rng = np.random.PCG64(6)

    def fit(self, x):
        return x


def by_value(function):
    """As if the script had defined it."""
    function.__module__ = "__main__"
    return function


@by_value
def of_global(_):
    return rng.random()


@by_value
def of_own_class(_):
    return own.random()


@by_value
def in_containers(_):
    return options["draws"][0].random()


@by_value
def with_default(_, draws=np.random.default_rng(7), *, more=random.Random(8)):  # noqa: B008
    return draws.random() + more.random()


@by_value
def calls_other(x):
    return of_global(x)


@by_value
def plain(seed):
    return random.Random(seed).random() + np.random.default_rng(seed).random()


@by_value
def of_shared(_):
    return shared_function() + random.gauss(0, 1) + np.random.rand() + random.SystemRandom().random()


def closure():
    local = np.random.default_rng(9)
    return lambda _: local.random()


def takes(generator, x):
    return generator.random() + x


@pytest.mark.parametrize(
    ("function", "names"),
    [
        (of_global, ["rng"]),
        (of_own_class, ["own"]),
        (in_containers, ["options['draws'][0]"]),
        (with_default, ["draws", "more"]),
        (calls_other, ["rng"]),
        (closure(), ["local"]),
        (functools.lru_cache(of_global), ["rng"]),
        (Model().fit, ["self.rng"]),
        (Model(), ["self.rng"]),
        (Slotted().fit, ["self.rng"]),
        (functools.partial(takes, random.Random(1)), ["generator"]),
        (functools.partial(takes, generator=random.Random(1)), ["generator"]),
        (functools.partial(np.add, random.Random(1)), ["args[0]"]),
        (random.Random(1).random, ["self"]),
        (np.random.default_rng(1).random, ["self"]),
        (plain, []),
        (of_shared, []),
        (random.random, []),
        (np.random.rand, []),
        (random.SystemRandom().random, []),
        (len, []),
        (Slotted, []),
    ],
    ids=lambda value: "+".join(value) or "none" if isinstance(value, list) else "",
)
def test_generators_that_travel_are_found(function, names):
    assert list(generators.find(function)) == names


def test_one_of_torch_is_found(monkeypatch):
    torch = types.ModuleType("torch")
    torch.Generator = type("Generator", (), {"__module__": "torch"})
    torch.default_generator = torch.Generator()
    monkeypatch.setitem(sys.modules, "torch", torch)
    assert list(generators.find(functools.partial(takes, torch.Generator()))) == ["generator"]
    assert list(generators.find(functools.partial(takes, torch.default_generator))) == []


def warnings_of(*functions):
    table = FunctionTable()
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        for function in functions:
            table.call(function, (), {})
    assert {warning.category for warning in found} <= {cw.SharedRandomState}
    return found


def test_the_warning_names_variable_and_recipe_and_stands_where_it_is_submitted():
    (warning,) = warnings_of(of_global)
    assert "of_global holds the random generator 'rng'" in str(warning.message)
    assert "numpy.random.default_rng(cw.current_job().seed)" in str(warning.message)
    assert warning.filename == __file__


def test_each_variable_is_warned_of_once():
    assert len(warnings_of(of_global, of_global, calls_other, *(closure() for _ in range(5)))) == 2
    models = [Model() for _ in range(3)]
    assert len(warnings_of(*(model.fit for model in models))) == 1
    assert len(warnings_of(with_default)) == 2


def test_one_behind_a_large_array_is_warned_of():
    array = np.zeros(100_000)
    assert len(warnings_of(by_value(lambda _: array.sum() + rng.random()))) == 1


def test_what_is_fine_is_not_warned_of(cluster):
    assert not warnings_of(plain, of_shared, random.random, np.random.rand)
    with warnings.catch_warnings(), cw.ClusterExecutor() as executor:
        warnings.simplefilter("error")
        assert executor.submit(takes, rng, 1).result(60)  # an argument: each call has its own


def test_maps_by_the_chunk_warn_too(cluster):
    with (
        cw.ClusterExecutor() as executor,
        pytest.warns(cw.SharedRandomState, match="of_global holds") as found,
    ):
        list(executor.map(of_global, range(4), chunksize=2))
    assert len(found) == 1
