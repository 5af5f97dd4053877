"""What a reader sees of jobs' lines: labels, equal lines, and what moves the cursor."""

import random

import pytest

from cw.output.screen import EQUAL_LINES, FOLD_SECONDS, Screen, label_of, visible


def test_a_label_says_function_job_and_host():
    assert label_of("simulate", 17, "node7.cluster.org") == "[simulate #17 node7] "
    assert label_of("", "a7", "") == "[#a7] "


def test_each_line_has_the_label():
    assert Screen().feed("[f #1] ", "a\nb", 0.0) == "[f #1] a\n[f #1] b\n"
    assert Screen().feed("[f #1] ", "\n", 0.0) == "[f #1] \n"


def test_only_equal_lines_that_come_fast_are_counted():
    screen = Screen()
    shown = "".join(screen.feed(f"[f #{job}] ", "too hot\n", 0.001 * job) for job in range(1000))
    assert shown == "".join(f"[f #{job}] too hot\n" for job in range(EQUAL_LINES))
    assert screen.due == pytest.approx(0.001 * EQUAL_LINES + FOLD_SECONDS)
    assert screen.feed("[f #7] ", "too cold\n", 1.0) == "[… the same line 997 more times]\n[f #7] too cold\n"
    assert screen.due is None
    assert screen.feed("[f #8] ", "too cold\ntoo cold\ntoo cold\n", 1.0).count("too cold") == 2
    assert screen.show_count() == "too cold\n"  # one more, as short as its count


def test_a_line_that_comes_now_and_then_is_shown_each_time():
    screen = Screen()
    for second in range(20):
        assert screen.feed("", "tick\n", second * FOLD_SECONDS) == "tick\n"


@pytest.mark.parametrize("seed", range(10))
def test_each_line_is_shown_or_counted(seed):
    chance, screen, now, put, shown = random.Random(seed), Screen(), 0.0, [], ""
    for _ in range(1000):
        now += chance.choice([0, 0.01, 0.5, 2])
        if screen.due is not None and now >= screen.due:
            shown += screen.show_count()
        line = chance.choice("aab")
        put.append(line)
        shown += screen.feed("", line + "\n", now)
    shown += screen.show_count()
    seen = []
    for line in shown.splitlines():
        count = int(line.split()[4].replace(",", "")) if line.startswith("[…") else 0
        seen += [seen[-1]] * count if count else [line]
    assert seen == put


def test_what_was_overwritten_and_what_moves_the_cursor_is_left_out():
    assert visible("  1%\r 50%\r100%") == "100%"
    assert visible("windows\r") == "windows"
    assert visible("\x1b[2J\x1b[Aa\x1b[31mred") == "a\x1b[31mred\x1b[0m"
    assert visible("\x1b[1mbold\x1b[0m") == "\x1b[1mbold\x1b[0m"


@pytest.mark.parametrize(
    "text, shown",
    [
        ("\x1b]0;a title\x07a", "a"),
        ("\x1b]8;;http://x.org\x1b\\a link\x1b]8;;\x1b\\.", "a link."),
        ("\x1bPq#0;2\x1b\\a\x1b_ no end", "a"),
        ("a\x1b[?25l\x1b[>4;1m\x1b[2 q\x1b[!p\x1b7\x1b(0b", "ab"),
        ("a\x1b[38;2;1;2;3mb\x1b[", "a\x1b[38;2;1;2;3mb\x1b[0m"),
        ("a\x1b[12", "a"),
        ("a\x0e\x08\x0c\x00\x07\x9b1mb\tc \u00e9\u2026", "a1mb\tc \u00e9\u2026"),
    ],
)
def test_what_sets_the_terminal_is_left_out(text, shown):
    assert visible(text) == shown
