"""What the runner and the zygote say to the supervisor, by NOTIFY_SOCKET."""

from __future__ import annotations

import errno
import socket
import sys
import threading
import time
from typing import Optional

PROGRESS_EVERY = 1.0
EXTEND_USEC = 30_000_000


class Notifier:
    """The supervisor's end of NOTIFY_SOCKET. Never blocks, never raises."""

    def __init__(self, address: Optional[str]) -> None:
        self._address = "\0" + address[1:] if address and address[0] == "@" else address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)

    def send(self, *lines: str) -> bool:
        """Send one datagram. False: its queue is full, so try again later."""
        if not self._address:
            return True
        try:
            self._socket.sendto("\n".join(lines).encode("utf-8", "replace"), self._address)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError as error:
            # Nobody listens any more (the supervisor's keeper went): the daemon works on.
            return error.errno != errno.ENOBUFS
        return True

    def close(self) -> None:
        """In a child, which speaks for itself."""
        self._socket.close()


class Progress(threading.Thread):
    """Tells that imports get on, while they do. A thread, because imports hold up the main one: RingRift's runners import
    the better part of their daemon inside the runner function, in the event loop."""

    def __init__(self, notifier: Notifier, what: str) -> None:
        super().__init__(name="progress", daemon=True)
        self._notifier = notifier
        self._what = what
        self._end = threading.Event()

    def run(self) -> None:
        begun = time.monotonic()
        known = 0
        while not self._end.wait(PROGRESS_EVERY):
            count = len(sys.modules)
            if count > known:
                known = count
                elapsed = time.monotonic() - begun
                self._notifier.send(
                    f"STATUS={self._what}: {count} modules loaded after {elapsed:.0f} s",
                    f"EXTEND_TIMEOUT_USEC={EXTEND_USEC}",
                )

    def end(self) -> None:
        """Say nothing more."""
        self._end.set()
