"""Requests to stop: while a training is under way the first one lets it save, before that it ends at once."""

from __future__ import annotations

import signal
from typing import Any

from purerl.cli import output

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Ctrl-C; what batch systems and containers send before they kill; the terminal is gone."""


class StopRequests:
    """Whether this process was asked to stop. To be used as a context manager, in the main thread.

    Signals that the process was started to ignore, as by ``nohup``, stay ignored.

    Attributes:
        deferred: whether a request waits until it is looked for, instead of raising `KeyboardInterrupt`. A Ctrl-C after
            the first request raises in any case.
    """

    def __init__(self) -> None:
        self.deferred = False
        self._number: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequests:
        for number in SIGNALS:
            before = signal.getsignal(number)
            if before not in (signal.SIG_IGN, None):  # None: set by something that is not Python
                self._before[number] = signal.signal(number, self._request)
        return self

    def __exit__(self, *_: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)

    def _request(self, number: int, frame: object) -> None:
        again = self._number is not None
        self._number = self._number or number
        if not self.deferred or (again and number == signal.SIGINT):
            raise KeyboardInterrupt(number)

    @property
    def requested(self) -> bool:
        """Whether a signal came, or nobody reads the output any more."""
        return self._number is not None or output.reader_is_gone()

    @property
    def exit_code(self) -> int:
        """Exit code of a process that was stopped so, as shells have it: 128 and the number of the signal."""
        return 128 + (self._number or signal.SIGPIPE)
