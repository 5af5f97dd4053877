"""What Ctrl-C means in a program that detaches: a question, the answer, and at last the end of all."""

import random

import pytest

from cw.runs.presses import ANSWER_SECONDS, Presses


def test_the_first_press_asks_and_the_second_one_interrupts():
    presses = Presses()
    question = presses.on_press(12, False, 100.0)
    assert question.startswith("detach? Ctrl-C again within 10 s: 12 calls go on without this program")
    assert presses.on_press(12, False, 101.0) == ""
    assert not presses.interrupts_later(False)


def test_a_press_long_after_the_question_asks_again():
    presses = Presses()
    assert "1 call goes on" in presses.on_press(1, False, 0.0)
    assert presses.on_press(1, False, ANSWER_SECONDS + 0.1)
    assert presses.on_press(1, False, ANSWER_SECONDS + 1) == ""


def test_nothing_is_asked_where_nothing_is_outstanding_or_all_is_being_handed_over():
    presses = Presses()
    assert presses.on_press(0, False, 0.0) == ""
    assert presses.on_press(5, True, 0.0) == "" and not presses.interrupts_later(True)


def test_an_input_is_read_to_the_end_of_its_item_but_not_against_a_second_press():
    presses = Presses()
    presses.shield()
    assert presses.interrupts_later(False) and not presses.interrupts_later(False)
    presses = Presses()
    presses.shield()
    assert presses.interrupts_later(False)
    assert presses.unshield() and not presses.interrupts_later(False)


@pytest.mark.parametrize("seed", range(20))
def test_each_press_asks_or_interrupts_and_none_is_lost(seed):
    """Interrupts that wait come at the end of the input's item, once each."""
    chance, presses, now, depth, due = random.Random(seed), Presses(), 0.0, 0, False
    for _ in range(300):
        now += chance.choice([0.1, 1.0, 20.0])
        event = chance.choice(["press", "press", "shield", "unshield"])
        if event == "press":
            if presses.on_press(3, False, now):
                due = False
            else:
                due = depth > 0 and not due
                assert presses.interrupts_later(False) == due
        elif event == "shield":
            presses.shield()
            depth += 1
        elif depth:
            depth -= 1
            assert presses.unshield() == (due and not depth)
            due = due and depth > 0
        presses.check_invariants()
