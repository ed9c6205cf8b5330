#!/usr/bin/env python3
"""Import once, fork often: the process that ringriftd's keeper has Python units forked from.

    ringrift_zygote.py [--path DIR]... MODULE[:FUNCTION]...

Each MODULE is imported, and its FUNCTION called if one is named; then the heap is frozen, and the process waits to be
asked. The protocol is told in docs/zygotes.md. RINGRIFT_ZYGOTE_FD is the number of the descriptor that it is spoken on,
a SOCK_SEQPACKET of the keeper's. The supervisor is told by NOTIFY_SOCKET as by any unit: READY=1 when all is imported,
WATCHDOG=1 for as long as requests would be taken.

A request is a Python command line with all that belongs to it. It becomes a process that is as near to an executed one as
can be: a child of the keeper's, with a session, an environment, descriptors and signals of its own, that waits at a gate
until the keeper has seen that it is the one asked for. What cannot be had by forking is refused, with the reason.

Exit codes:

   0  told to end, or the keeper is gone
   1  a bug, or the kernel refused something
  64  usage
  66  a module or function is missing, or failed while it was imported

Only the standard library is used; CPython 3.9 or newer, on Linux.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib
import os
import select
import signal
import socket
import sys
import threading
import time
import traceback
from typing import NoReturn, Optional

from ringrift_fork import EXIT_FAILED, REASON_MAX, Gate, Refusal, Request, become, clean_reason
from ringrift_notify import Notifier, Progress

VERSION = 1
EXIT_USAGE = 64
EXIT_IMPORT = 66

# The kernel's bound for one message (SCM_MAX_FD), and ours for what a request says.
DESCRIPTORS_MAX = 253
REQUEST_MAX = 4 << 20
# Request, gate, stdin, stdout, stderr.
DESCRIPTORS_MIN = 5


def say(text: str) -> None:
    """One line on stderr."""
    print(f"ringrift_zygote: {' '.join(text.split())}", file=sys.stderr, flush=True)


def own_threads() -> list[str]:
    """The names of all threads but the calling one; those that Python does not know by the kernel's name."""
    own = threading.get_native_id()
    known = {thread.native_id: thread.name for thread in threading.enumerate()}
    names = []
    for entry in os.listdir("/proc/self/task"):
        if int(entry) == own:
            continue
        name = known.get(int(entry))
        if name is None:
            try:
                with open(f"/proc/self/task/{entry}/comm", encoding="utf-8", errors="replace") as file:
                    name = f"{file.read().strip()} (not of Python's)"
            except OSError:
                continue  # it has just ended
        names.append(name)
    return sorted(names)


class Zygote:
    """The process that waits to be asked."""

    def __init__(self, link: socket.socket, notifier: Notifier) -> None:
        self._link = link
        self._notifier = notifier
        usec = os.environ.get("WATCHDOG_USEC", "")
        self._watchdog = int(usec) / 2e6 if usec.isdigit() and int(usec) > 0 else None
        self.forks = 0

    def serve(self) -> Optional[Request]:
        """Takes requests until the keeper is gone (None). In a child it returns with what that is to run."""
        poll = select.poll()
        poll.register(self._link, select.POLLIN)
        self._link.send(b"READY %d" % VERSION)
        while True:
            if self._watchdog is not None:
                self._notifier.send("WATCHDOG=1")
            if not poll.poll(None if self._watchdog is None else self._watchdog * 1000):
                continue
            data, fds, is_cut = self._receive()
            if not data and not fds:
                return None
            try:
                request = self._on_request(data, fds, is_cut)
            finally:
                # In a child they are gone already.
                if self._link.fileno() >= 0:
                    for fd in fds:
                        os.close(fd)
            if request is not None:
                return request

    def _receive(self) -> tuple[bytes, list[int], bool]:
        room = socket.CMSG_SPACE(DESCRIPTORS_MAX * 4)
        data, ancillary, flags, _ = self._link.recvmsg(64, room, socket.MSG_CMSG_CLOEXEC)
        fds: list[int] = []
        for level, kind, content in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                whole = len(content) - len(content) % 4
                fds += [int.from_bytes(content[at : at + 4], sys.byteorder) for at in range(0, whole, 4)]
        return data, fds, bool(flags & (socket.MSG_CTRUNC | socket.MSG_TRUNC))

    def _on_request(self, data: bytes, fds: list[int], is_cut: bool) -> Optional[Request]:
        if len(fds) < DESCRIPTORS_MIN:
            say(f"a request with {len(fds)} descriptors is none")
            return None
        body_fd, gate_fd, *passed = fds
        try:
            if data != b"FORK" or is_cut:
                raise Refusal("the request is not understood, or was cut")
            body = os.pread(body_fd, REQUEST_MAX + 1, 0)
            if len(body) > REQUEST_MAX:
                raise Refusal("the request is too large")
            request = Request(body)
            if len(request.targets) != len(passed) - 3:
                raise Refusal(f"{len(passed) - 3} further descriptors came, and {len(request.targets)} are named")
            others = own_threads()
            if others:
                raise Refusal(f"{len(others)} more threads run here: {', '.join(others)}")
            request.command.warm(request.dir)
            return request if self._fork(request, body_fd, passed, gate_fd) else None
        except Exception as error:  # one request must not end the zygote of all
            reason = str(error) if isinstance(error, Refusal) else clean_reason(error)
            gate = Gate(os.dup(gate_fd))
            gate.refuse(reason)
            return None

    def _fork(self, request: Request, body_fd: int, passed: list[int], gate_fd: int) -> bool:
        """True in the child, when it may run. Forks twice, so that the child is an orphan and becomes the keeper's."""
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
        orphaned, between_lives = os.pipe()
        try:
            between = os.fork()
            if between == 0:
                try:
                    child = os.fork()
                except BaseException as error:
                    try:
                        Gate(gate_fd).refuse(clean_reason(error))
                    finally:
                        os._exit(EXIT_FAILED)
                if child != 0:
                    os._exit(0)
                os.close(between_lives)
                os.close(body_fd)
                self._link.close()
                self._notifier.close()
                become(request, passed, gate_fd, orphaned)
                return True
            os.waitpid(between, 0)
            self.forks += 1
            return False
        finally:
            # In the child both numbers may mean something else by now.
            if self._link.fileno() >= 0:
                os.close(orphaned)
                os.close(between_lives)


def preload(names: list[str]) -> None:
    """Imports, and calls what is to be called."""
    for name in names:
        module, _, function = name.partition(":")
        loaded = importlib.import_module(module)
        if function:
            getattr(loaded, function)()


def take_descriptor() -> socket.socket:
    """The keeper's socket."""
    text = os.environ.pop("RINGRIFT_ZYGOTE_FD", "")
    if not text.isdigit():
        say("RINGRIFT_ZYGOTE_FD is no number: only ringriftd starts a zygote")
        sys.exit(EXIT_USAGE)
    try:
        os.set_inheritable(int(text), False)
        link = socket.socket(fileno=int(text))
    except OSError as error:
        say(f"RINGRIFT_ZYGOTE_FD={text}: {error}")
        sys.exit(EXIT_USAGE)
    if link.family != socket.AF_UNIX or link.type != socket.SOCK_SEQPACKET:
        say(f"RINGRIFT_ZYGOTE_FD={text} is no SOCK_SEQPACKET socket")
        sys.exit(EXIT_USAGE)
    return link


class Parser(argparse.ArgumentParser):
    """argparse ends with 2 where we promise 64."""

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        say(message)
        sys.exit(EXIT_USAGE)


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = Parser(prog="ringrift_zygote.py", description="Import once, and fork units for ringriftd.")
    parser.add_argument("--path", action="append", default=[], metavar="DIR", help="look for modules here first")
    parser.add_argument("modules", nargs="+", metavar="MODULE[:FUNCTION]", help="import it, and call that")
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> Optional[Request]:
    """The zygote's whole life: None at its end. In a child: what that is to run."""
    options = parse(arguments)
    link = take_descriptor()
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    notifier = Notifier(os.environ.pop("NOTIFY_SOCKET", None))
    sys.path[1:1] = [os.path.abspath(folder) for folder in options.path]
    gc.disable()
    progress = Progress(notifier, "importing")
    progress.start()
    begun = time.monotonic()
    try:
        preload(options.modules)
    except BaseException as error:
        traceback.print_exc()
        say(clean_reason(error))
        sys.stderr.flush()
        os._exit(EXIT_IMPORT)
    finally:
        # Nothing is forked before it is gone.
        progress.end()
        progress.join()
    # What finders know of folders is read anew when a child needs it; to tell them there would cost each child their pages.
    importlib.invalidate_caches()
    # Twice: what finalizers of the first round let go of. Frozen objects are not looked at again, so they stay shared.
    gc.collect()
    gc.collect()
    gc.freeze()
    zygote = Zygote(link, notifier)
    took = time.monotonic() - begun
    others = own_threads()
    status = f"{len(sys.modules)} modules in {took:.1f} s, frozen"
    if others:
        status = f"cannot fork: {len(others)} more threads run here: {', '.join(others)}"
        say(status)
    notifier.send("READY=1", f"STATUS={status[:REASON_MAX]}")
    return zygote.serve()


def whole() -> None:
    """Runs the zygote, or in a child what that was asked to run: with nothing of the zygote on the stack."""
    request = main(sys.argv[1:])
    if request is None:
        # Without taking the whole heap apart first.
        os._exit(0)
    request.command.run()


if __name__ == "__main__":
    whole()
