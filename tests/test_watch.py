"""What a pickle was made from: whatever is bound anew is seen, and nothing is kept alive."""

import gc
import random
import weakref

import pytest

from cw.payloads.watch import MISSING, Watch, contents_of


def make_function():
    captured = 1

    def function(x, y=2, *, z=3):
        return x + y + z + captured

    return function


def make_class():
    class Model:
        rate = 1

        def step(self):
            return self.rate

    return Model


def swap_code(function):
    function.__code__ = make_function().__code__.replace(co_name="other")


def set_cell(function):
    function.__closure__[0].cell_contents = 5


@pytest.mark.parametrize(
    "change",
    [
        swap_code,
        set_cell,
        lambda function: setattr(function, "__defaults__", (3,)),
        lambda function: setattr(function, "__kwdefaults__", {"z": 3}),
        lambda function: function.__kwdefaults__.update(z=4),
        lambda function: setattr(function, "note", 1),
    ],
)
def test_a_function_whose_parts_are_bound_anew_is_seen(change):
    function = make_function()
    watch = Watch()
    watch.add_function(function)
    assert watch.is_current() and watch.is_current()
    change(function)
    assert not watch.is_current()


@pytest.mark.parametrize("value", [True, 1.0, 2])
def test_a_class_with_another_value_is_seen_also_if_it_is_an_equal_one(value):
    model = make_class()
    watch = Watch()
    watch.add_namespace(vars(model))
    assert watch.is_current() and watch.is_current()
    model.rate = value
    assert not watch.is_current()


def test_an_attribute_more_or_less_or_of_another_name_is_seen():
    for change in (
        lambda model: setattr(model, "more", 1),
        lambda model: delattr(model, "rate"),
        lambda model: (setattr(model, "speed", model.rate), delattr(model, "rate")),
    ):
        model = make_class()
        watch = Watch()
        watch.add_namespace(vars(model))
        assert watch.is_current()
        change(model)
        assert not watch.is_current()


def test_a_watched_function_is_not_kept_alive_nor_is_what_it_holds():
    function = make_function()
    held = make_class()
    function.held = held
    watch = Watch()
    watch.add_function(function)
    references = [weakref.ref(function), weakref.ref(held)]
    del function, held
    gc.collect()
    assert [reference() for reference in references] == [None, None]
    assert not watch.is_current()


@pytest.mark.parametrize("seed", range(20))
def test_after_random_changes_it_says_whether_a_name_is_bound_to_another_object(seed):
    choice = random.Random(seed).choice
    values = [None, 1, True, 1.0, "a", (1,), [1], [1], make_class(), make_function(), len, random]
    spaces = [{name: choice(values) for name in "abc"} for _ in range(2)]
    watch, other = Watch(), Watch()
    for name in "abcd":
        watch.add_name(spaces[0], name)
    other.add_namespace(spaces[1])
    watch.absorb(other)
    before = [{name: space.get(name, MISSING) for name in "abcd"} for space in spaces]
    for _ in range(50):
        space = choice(spaces)
        name = choice("abcd")
        if choice([True, False]):
            space[name] = choice([*values, before[spaces.index(space)][name]])
        else:
            space.pop(name, None)
        for name, value in list(space.items()):
            if value is MISSING:
                del space[name]
        now = [{name: space.get(name, MISSING) for name in "abcd"} for space in spaces]
        is_same = all(old[name] is new[name] for old, new in zip(before, now, strict=True) for name in "abcd")
        assert watch.is_current() == is_same


def test_a_variable_that_is_not_bound_has_no_contents():
    def outer():
        def inner():
            return later

        yield inner
        later = 1
        yield inner

    functions = outer()
    assert contents_of(next(functions).__closure__[0]) is MISSING
    assert contents_of(next(functions).__closure__[0]) == 1
