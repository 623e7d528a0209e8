"""SIGTERM, by which schedulers end a process: what is computed is saved first."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Terminated(RuntimeError):
    """The process was asked to end, and has saved what it had."""


@contextmanager
def asked_to_end() -> Iterator[Callable[[], bool]]:
    """Inside, SIGTERM is noted, and the function says whether it has come; a second one ends the process.

    Signals reach the main thread only: elsewhere they stay as they are.
    """
    came = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield came.is_set
        return
    before = signal.getsignal(signal.SIGTERM)

    def note(number: int, frame: object) -> None:
        came.set()
        signal.signal(signal.SIGTERM, before)

    signal.signal(signal.SIGTERM, note)
    try:
        yield came.is_set
    finally:
        signal.signal(signal.SIGTERM, before)
