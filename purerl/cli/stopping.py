"""Requests to stop by signals: during training the first one lets it save, before that it ends at once."""

from __future__ import annotations

import signal
from typing import Any

from purerl.cli import output

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Signals of Ctrl-C, of batch systems and containers before they kill, and of a closed terminal."""


class StopRequests:
    """Record of requests to stop this process. A context manager, for the main thread.

    Signals that were ignored when the process started, as with ``nohup``, stay ignored.

    Attributes:
        deferred: whether the first request only sets `requested`, instead of raising `KeyboardInterrupt`. A Ctrl-C
            after the first request always raises.
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
        """Whether a signal came, or the reader of the output is gone."""
        return self._number is not None or output.reader_is_gone()

    @property
    def exit_code(self) -> int:
        """Exit code after a request to stop: 128 plus the number of the signal, as in shells."""
        return 128 + (self._number or signal.SIGPIPE)
