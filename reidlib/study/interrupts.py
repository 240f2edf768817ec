"""Ctrl-C and its like end a call once: a second one while it cleans up does not break the cleaning up."""

import contextlib
import signal
import threading
from collections.abc import Iterator

# SIGTERM is what batch systems send, SIGHUP what a closed terminal does.
_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


class Interrupts:
    """Counts the signals. The first raises KeyboardInterrupt; later ones only count."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, number: int, frame: object) -> None:
        self.count += 1
        if self.count == 1:
            raise KeyboardInterrupt


@contextlib.contextmanager
def interrupts() -> Iterator[Interrupts]:
    """Handles SIGINT, SIGTERM and SIGHUP during the `with` block.

    What is ignored stays ignored: SIGINT in background jobs of a shell, SIGHUP under nohup. Only the main
    thread may handle signals; in another one, nothing is changed.
    """
    counted = Interrupts()
    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.getsignal(number) for number in _SIGNALS}
        before = {number: old for number, old in before.items() if old is not signal.SIG_IGN}
        for number in before:
            signal.signal(number, counted)
    try:
        yield counted
    finally:
        for number, old in before.items():
            signal.signal(number, signal.SIG_DFL if old is None else old)
