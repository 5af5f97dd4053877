"""Makes the pictures of README.md from real runs on this machine: `python docs/pictures.py`. It needs matplotlib, tqdm,
textual and Chromium.

resume.svg     a terminal: examples/sweep.py with its bar, killed half-way with SIGKILL, and run again
top.svg        `cw top` on a run of two functions, in which some calls fail
report.png     the head of a report on jobs that sleep, as Chromium shows it
speedup.svg    speed-up by the number of slots, for jobs that sleep: it shows what cw costs, not the machine
"""

from __future__ import annotations

import asyncio
import fcntl
import html
import os
import pty
import random
import re
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import time
from pathlib import Path
from typing import NamedTuple

import cw

ROOT = Path(__file__).resolve().parent.parent
PICTURES = ROOT / "docs" / "pictures"

COLUMNS = 96
CHARACTER, ROW = 8.4, 19  # a character's width and a line's height, in pixels
SECONDS = 12.0  # that the picture moves
PAUSE = 0.2  # between two pictures of one line
SLOTS = (1, 2, 4, 8, 16, 32, 64)
ROUNDS = 5  # of which the best counts: other programs may use this machine, too


class Event(NamedTuple):
    """A line of the terminal has this text from this moment on."""

    when: float
    line: int
    text: str


# --- a run that is killed, and goes on ------------------------------------------------------------


def resume() -> None:
    """Draw a sweep that is killed when it is half done, and run again."""
    with tempfile.TemporaryDirectory() as directory:
        command = [sys.executable, str(ROOT / "examples" / "sweep.py"), "--forests", "20"]
        first = record(command, directory, until=r" (4[5-9]|5\d)%")
        second = record(command, directory)
    shown = "$ python examples/sweep.py --forests 20"
    events = [Event(0.0, 0, shown), *after(first, 1, 0.5)]
    end = events[-1].when
    below = max(event.line for event in events) + 1
    events += [Event(end, below, "Killed"), Event(end + 1, below + 1, shown)]
    events += after(second, below + 2, end + 1.5)
    (PICTURES / "resume.svg").write_text(terminal(events), encoding="utf-8")


def after(events: list[Event], line: int, when: float) -> list[Event]:
    return [Event(event.when + when, event.line + line, event.text) for event in events]


def record(command: list[str], directory: str, until: str | None = None) -> list[Event]:
    """Run a program at a terminal; it is killed when it shows what `until` matches."""
    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 24, COLUMNS, 0, 0))
    begin = time.monotonic()
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, cwd=directory, env=environment, stdin=its, stdout=its, stderr=its)
    os.close(its)
    events, lines = [], [""]
    while data := read(ours):
        for part in re.findall(r"\r\n|\r|[^\r\n]+", data.decode(errors="replace")):
            if part == "\r\n":
                lines.append("")
            elif part == "\r":
                lines[-1] = ""
            else:
                lines[-1] += re.sub(r"\x1b\[[\d;]*[A-Za-z]", "", part)
                events.append(Event(time.monotonic() - begin, len(lines) - 1, lines[-1].rstrip()))
        if until and re.search(until, lines[-1]):
            process.send_signal(signal.SIGKILL)
            break
    os.close(ours)
    if process.wait() != (-signal.SIGKILL if until else 0):
        raise SystemExit(f"{command}: exit status {process.returncode}: {lines}")
    return events


def read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # its other end is closed
        return b""


def terminal(events: list[Event]) -> str:
    """An SVG that plays the events once. Where nothing moves, its last picture is seen."""
    pace = min(1.0, SECONDS / max(event.when for event in events))
    width = COLUMNS * CHARACTER + 24
    height = (max(event.line for event in events) + 1) * ROW + 50
    rows = []
    for line in range(max(event.line for event in events) + 1):
        shown: list[Event] = []
        own = [event for event in events if event.line == line]
        for event in own:
            is_soon = shown and (event.when - shown[-1].when) * pace < PAUSE
            if not is_soon or event is own[-1]:
                shown.append(event)
        for event, following in zip(shown, [*shown[1:], None], strict=True):
            begin, text = event.when * pace, html.escape(event.text)
            if following is None:
                state, change = "", f'to="hidden" begin="0s" dur="{max(begin, 0.01):.2f}s"'
            else:
                duration = max((following.when - event.when) * pace, 0.01)
                state = ' visibility="hidden"'
                change = f'to="visible" begin="{begin:.2f}s" dur="{duration:.2f}s"'
            kind = 'fill="#8fd6a8"' if text.startswith("$") else 'fill="#ff8f80"' if text == "Killed" else ""
            width_of_text = len(event.text) * CHARACTER  # in whatever font there is
            rows.append(
                f'<text x="12" y="{line * ROW + 46}" textLength="{width_of_text:.1f}" {kind}{state}>{text}'
                f'<set attributeName="visibility" {change}/></text>'
            )
    return f"""\
<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height}" viewBox="0 0 {width:.0f} {height}">
<rect width="100%" height="100%" rx="8" fill="#1d2430"/>
<circle cx="18" cy="16" r="5" fill="#ff5f57"/>
<circle cx="36" cy="16" r="5" fill="#febc2e"/>
<circle cx="54" cy="16" r="5" fill="#28c840"/>
<g font-family="monospace" font-size="14" fill="#d8dee9" xml:space="preserve" lengthAdjust="spacingAndGlyphs">
{chr(10).join(rows)}
</g>
</svg>
"""


# --- a report -------------------------------------------------------------------------------------


def simulate(seed: int) -> None:
    rest(seed, 0.8)
    if seed % 43 == 42:
        raise ValueError("the model does not converge")


def analyse(seed: int) -> None:
    rest(-seed, 0.3)


def rest(seed: int, mean: float) -> None:
    time.sleep(mean * random.Random(seed).lognormvariate(-0.1, 0.4))


def report() -> None:
    """Take a picture of the report on a run of two functions, in which some calls fail."""
    with tempfile.TemporaryDirectory() as directory:
        page = Path(directory) / "run.html"
        with (
            cw.mp.allocate(8),
            cw.ClusterExecutor(report=page, store=Path(directory) / "sweep.cw") as executor,
        ):
            simulated = [executor.submit(simulate, seed) for seed in range(160)]
            for number, future in enumerate(simulated):
                if future.exception() is None:
                    executor.options(priority=1).submit(analyse, number)
        shot = PICTURES / "report.png"
        browser = [
            "chromium",
            "--headless",
            "--no-sandbox",
            "--hide-scrollbars",
            "--blink-settings=preferredColorScheme=1",
        ]
        subprocess.run(
            [*browser, "--window-size=1000,1000", f"--screenshot={shot}", page.as_uri()], check=True
        )
    from PIL import Image  # matplotlib brings it

    Image.open(shot).convert("RGB").quantize(200).save(shot, optimize=True)


# --- cw top ---------------------------------------------------------------------------------------


def top() -> None:
    """Take a picture of `cw top` when a run is half done."""
    from cw.top.app import TopApp
    from cw.top.live import LiveSource

    async def look(where: str, futures: list[cw.Future[None]]) -> str:
        app = TopApp(LiveSource(where, takes_orders=True))
        async with app.run_test(size=(100, 14)):
            while sum(future.done() for future in futures) < len(futures) * 0.6:
                await asyncio.sleep(0.1)
            return app.export_screenshot(title="cw top")

    with cw.mp.allocate(8) as cluster, cw.ClusterExecutor(output="drop") as executor:
        futures = []
        for seed in range(400):  # in turn, so that both are under way
            futures.append(executor.submit(simulate, seed))
            futures.append(executor.submit(analyse, seed))
        picture = asyncio.run(look(cluster.master, futures))
        executor.shutdown(cancel_futures=True)
    # The fonts that it names are in the net, where no picture of a page looks.
    picture = re.sub(r"@font-face \{.*?\}", "", picture, flags=re.DOTALL)
    (PICTURES / "top.svg").write_text(picture, encoding="utf-8")


# --- speed-up by slots ------------------------------------------------------------------------------


def speedup() -> None:
    """Measure and plot how much faster jobs that sleep are on some slots than in a loop."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(5.6, 3.6), layout="constrained")
    axes.plot(SLOTS, SLOTS, color="gray", linewidth=0.8, linestyle=":", label="ideal")
    for seconds, color in ((0.1, "#00897b"), (0.01, "#e07b39")):
        speeds = [measure(slots, seconds) for slots in SLOTS]
        axes.plot(SLOTS, speeds, marker="o", color=color, label=f"jobs of {seconds * 1000:.0f} ms")
        print(
            f"jobs of {seconds} s:",
            *(f"{slots}: {speed:.1f}" for slots, speed in zip(SLOTS, speeds, strict=True)),
        )
    axes.set(xlabel="slots", ylabel="speed-up", xscale="log", yscale="log", xticks=SLOTS, yticks=SLOTS)
    axes.set(xticklabels=SLOTS, yticklabels=SLOTS)
    axes.minorticks_off()
    axes.set_title(f"jobs that sleep, on a machine with {len(os.sched_getaffinity(0))} CPUs", fontsize=10)
    axes.legend(frameon=False)
    figure.savefig(PICTURES / "speedup.svg", metadata={"Date": None})


def measure(slots: int, seconds: float) -> float:
    """The best of some rounds: the time that the jobs slept, by the time on the clock."""
    njobs = slots * round(2 / seconds)
    with cw.mp.allocate(slots), cw.ClusterExecutor() as executor:
        list(executor.map(time.sleep, [seconds] * slots))  # the runners are there
        return max(trip(executor, njobs, seconds) for _ in range(ROUNDS))


def trip(executor: cw.ClusterExecutor, njobs: int, seconds: float) -> float:
    begin = time.perf_counter()
    list(executor.map(time.sleep, [seconds] * njobs))
    return njobs * seconds / (time.perf_counter() - begin)


if __name__ == "__main__":
    PICTURES.mkdir(exist_ok=True)
    resume()
    report()
    top()
    speedup()
