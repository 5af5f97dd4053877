"""What Ctrl-C means in a program that can hand its calls over. Pure.

the first press          the question is printed; the program goes on as if nothing had happened
the second, soon after   what is outstanding is handed over, and the program ends
the third, meanwhile     what is outstanding is cancelled
"""

from __future__ import annotations

ANSWER_SECONDS = 10.0
"""Time for the second press (seconds). Longer: one that was meant as the first detaches. Shorter: nobody can read the
question."""


class Presses:
    """Counts presses. Time is an argument (seconds of a monotonic clock)."""

    def __init__(self) -> None:
        self._asked_at: float | None = None
        self._shields = 0
        self._is_pending = False

    def on_press(self, outstanding: int, is_leaving: bool, now: float) -> str:
        """Count a press of Ctrl-C. Returns the text to print; '': the program must be interrupted now, or when what it
        does is done (`interrupts_later`). `is_leaving`: calls are being handed over."""
        if is_leaving or not outstanding:
            self._is_pending = False
            return ""
        if self._asked_at is None or now - self._asked_at > ANSWER_SECONDS:
            self._asked_at, self._is_pending = now, False
            return question(outstanding)
        return ""

    def interrupts_later(self, is_leaving: bool) -> bool:
        """True if this interrupt must wait, as the program reads an input: to interrupt that would lose the rest of it.
        A second one does not wait."""
        self._is_pending = bool(self._shields) and not (is_leaving or self._is_pending)
        return self._is_pending

    def shield(self) -> None:
        """Note that an input is being read."""
        self._shields += 1

    def unshield(self) -> bool:
        """Note the end of that. True: the program must be interrupted now."""
        self._shields -= 1
        is_due = self._is_pending and not self._shields
        if is_due:
            self._is_pending = False
        return is_due

    def check_invariants(self) -> None:
        """Check the state in tests."""
        assert self._shields >= 0
        assert not self._is_pending or self._shields


def question(outstanding: int) -> str:
    """Return what the first Ctrl-C prints."""
    what = "1 call goes" if outstanding == 1 else f"{outstanding:,} calls go"
    return f"detach? Ctrl-C again within {ANSWER_SECONDS:.0f} s: {what} on without this program; a third one cancels"
