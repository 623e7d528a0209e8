"""How far a training has come, in one line: of `train`, sweeps and population-based training alike."""

import sys
import time
from collections.abc import Callable
from typing import Any

LIVE_EVERY_S, EVERY_S = 30.0, 5.0  # seconds between reported lines, with a live line on a terminal and without


class Progress:
    """A live line on a terminal, a reported line now and then.

    Args:
        start, end: the iterations between which it trains.
        work: units of work of one iteration, all lanes together; `unit`: their name.
        report: what takes the lines; `label` stands before each.
    """

    def __init__(
        self, start: int, end: int, work: float, unit: str, report: Callable[[Any], None], label: str = ""
    ) -> None:
        self.start, self.end, self.work, self.unit, self.report, self.label = start, end, work, unit, report, label
        self.spent = 0.0
        self.shown = 0.0
        self.live: Any = None

    def __enter__(self) -> "Progress":
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.live import Live

            self.live = Live(console=Console(stderr=True), refresh_per_second=4, transient=True)
            self.live.start()
        return self

    def __exit__(self, *_: Any) -> None:
        if self.live is not None:
            self.live.stop()

    def update(self, iteration: int, seconds: float, about: str = "") -> None:
        """`iteration` was reached by a call that took `seconds`; `about`: what to say of the results, short."""
        self.spent += seconds
        done = iteration - self.start
        left = self.spent / done * (self.end - iteration)
        words = [
            f"{self.label}{iteration:>{len(str(self.end))}}/{self.end}",
            about,
            f"{done * self.work / self.spent:>9,.0f} {self.unit}/s",
            f"{left:4.0f} s left",
        ]
        line = "  ".join(word for word in words if word)  # with the score of a run it fits a terminal of 80 columns
        now = time.perf_counter()
        if self.live is not None:
            self.live.update(line)
        if iteration == self.end or now - self.shown > (LIVE_EVERY_S if self.live is not None else EVERY_S):
            self.shown = now
            self.report(line)
