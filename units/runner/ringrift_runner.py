#!/usr/bin/env python3
"""Run one daemon of a RingRift checkout as a process of its own.

    ringrift_runner.py [--linger] [--ready-after S] [--stop-limit S] create_NAME

RINGRIFT_HOME names the checkout: the repository, or the ai-service folder in it. `create_NAME` is one of the runner
functions that its `app.coordination.daemon_runners` registers. The supervisor is told by datagrams on NOTIFY_SOCKET:

  READY=1                 the daemon was started and now waits for its end (its runner called the checkout's
                          `_wait_for_daemon`). After --ready-after also: a runner that never calls it and still runs,
                          a daemon that is still in its start() but says that it runs
  STATUS=                 one line for a person
  EXTEND_TIMEOUT_USEC=    imports are slow but get on: new modules appeared since the last second
  WATCHDOG=1              the event loop turns; every WATCHDOG_USEC/2. Never tied to health: a daemon that says it is
                          unwell is not a daemon that hangs
  X_RINGRIFT_HEALTH=      healthy, degraded or unhealthy, from `health_check()`; every RINGRIFT_HEALTH_INTERVAL_USEC
  X_RINGRIFT_METRICS=     {"name": number, ...}, from `get_metrics()`, or else from the health check's details
  STOPPING=1              SIGTERM or SIGINT came; `stop()` is called. A second signal ends the process at once

Exit codes; the last line on stderr says what happened and why:

   0  stopped as told
   1  the daemon raised an exception
  64  usage                                                                (permanent: a mistake in the unit's args)
  65  the runner function returned by itself, and --linger was not given   (permanent: it would do the same again)
  66  no checkout, no such runner, or a module is missing                  (permanent: until somebody installs it)

With --linger a runner function that returns counts as running until it is told to stop: for daemons whose work goes
on in event handlers, and for those that only set something up.

Only the standard library is used; CPython 3.9 or newer. It never restarts anything: that is the supervisor's business.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import enum
import importlib
import inspect
import json
import logging
import math
import numbers
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Awaitable, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any, NoReturn, Optional

from ringrift_notify import Notifier, Progress

EXIT_FAILED = 1
EXIT_USAGE = 64
EXIT_RETURNED = 65
EXIT_IMPORT = 66

RUNNERS_MODULE = "app.coordination.daemon_runners"
WAIT_FUNCTION = "_wait_for_daemon"

# The supervisor's bounds: a longer datagram is void, a longer status is cut.
DATAGRAM_MAX = 4096
STATUS_MAX = 512
# What is left for metrics beside the status, the health word and the names of all three.
METRICS_MAX = DATAGRAM_MAX - STATUS_MAX - 256

READY_AFTER = 5.0
STOP_LIMIT = 8.0
# After stop(): for the runner's own `finally` blocks.
CANCEL_LIMIT = 2.0
# After both: for the loop itself, should it be blocked.
LAST_RESORT = 2.0
ASK_LIMIT = 5.0
HEALTH_INTERVAL = 30.0
RETRY_EVERY = 0.5
RUNS_EVERY = 1.0

ENDING = (signal.SIGTERM, signal.SIGINT)

Runner = Callable[[], Any]


def say(text: str) -> None:
    """One line on stderr."""
    print(f"ringrift_runner: {one_line(text)}", file=sys.stderr, flush=True)


def one_line(text: Any, limit: int = STATUS_MAX) -> str:
    """`text` without line breaks, cut to `limit` bytes of UTF-8 at a character."""
    joined = " ".join(str(text).split())
    data = joined.encode("utf-8", "replace")
    if len(data) <= limit:
        return data.decode("utf-8")
    return data[: limit - 3].decode("utf-8", "ignore") + "\N{HORIZONTAL ELLIPSIS}"


def reason(error: BaseException) -> str:
    """`TypeError: what it said`, or the type alone."""
    text = str(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def leave(code: int) -> NoReturn:
    """End the process now. Threads and tasks that a daemon left behind have no say in it."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(code)


def service_folder(home: str) -> Optional[Path]:
    """The folder of `home` that holds the package `app`, or None."""
    base = Path(home).expanduser()
    for folder in (base, base / "ai-service"):
        if (folder / "app" / "coordination").is_dir():
            return folder.resolve()
    return None


def enter(folder: Path) -> None:
    """Work in the checkout, for this process and for the helpers that a daemon spawns."""
    os.chdir(folder)
    own = str(Path(__file__).resolve().parent)
    sys.path[:] = [str(folder), *(p for p in sys.path if p != own)]
    others = [p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p and p != str(folder)]
    os.environ["PYTHONPATH"] = os.pathsep.join([str(folder), *others])


def find_runner(module: ModuleType, name: str) -> Optional[Runner]:
    """The runner function called `name`. The registry is asked first: filling it loads what later trees split off."""
    registry = getattr(module, "get_all_runners", dict)()
    for function in registry.values():
        if getattr(function, "__name__", None) == name:
            return function
    function = getattr(module, name, None)
    return function if callable(function) else None


def calls_wait(runner: Runner) -> bool:
    """The runner's own code names the wait function, so readiness needs no timer."""
    code = getattr(inspect.unwrap(runner), "__code__", None)
    return code is not None and WAIT_FUNCTION in code.co_names


def hook_waits(module: ModuleType, waiting: Callable[..., Awaitable[None]]) -> None:
    """Pass the wait functions that runners call through `waiting(original, daemon, …)`. Later trees have several copies.
    Only modules that have runners are looked at: in a process that was forked from a zygote, each other one would cost
    the page that it is on."""

    def hooked(original: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
        async def wait(daemon: Any, *args: Any, **kwargs: Any) -> None:
            await waiting(original, daemon, *args, **kwargs)

        return wait

    runners = getattr(module, "get_all_runners", dict)().values()
    names = {module.__name__, *(inspect.unwrap(runner).__module__ for runner in runners)}
    for name in names:
        original = getattr(sys.modules.get(name), WAIT_FUNCTION, None)
        if inspect.iscoroutinefunction(original):
            setattr(sys.modules[name], WAIT_FUNCTION, hooked(original))


def needs_nothing(function: Any) -> bool:
    """It can be called without arguments."""
    if not callable(function):
        return False
    try:
        inspect.signature(function).bind()
    except TypeError:
        return False
    except ValueError:  # a builtin without a signature
        return True
    return True


def says_it_runs(daemon: Any) -> bool:
    """Its `is_running`, a property or a method, or else its `_running`, as the checkout's wait function asks."""
    try:
        answer = getattr(daemon, "is_running", None)
        if answer is None:
            answer = getattr(daemon, "_running", False)
        return (answer() if callable(answer) else answer) is True
    except Exception:
        return False


def judge(answer: Any) -> tuple[str, str, Mapping[str, Any]]:
    """What a `health_check()` answered, as (health, text, details).

    Accepted: an object with `healthy`, a map with "healthy", a truth value, None. The status "degraded" outranks a
    false `healthy`: daemons that have merely nothing to do yet say so in that way. In several RingRift trees the
    result's field `healthy` is shadowed by a method of the same name; then the status alone counts.
    """
    if answer is None:
        return "healthy", "", {}
    if isinstance(answer, bool):
        return ("healthy" if answer else "unhealthy"), "", {}
    part = answer.get if isinstance(answer, Mapping) else lambda key: getattr(answer, key, None)
    flag, status, message, details = part("healthy"), part("status"), part("message"), part("details")
    status = str(status.value if isinstance(status, enum.Enum) else status or "").lower()
    if status == "degraded":
        health = "degraded"
    elif flag is None or callable(flag):
        health = "unhealthy" if status in ("error", "unhealthy") else "healthy"
    else:
        health = "healthy" if flag else "unhealthy"
    text = "" if message is None or callable(message) else str(message)
    return health, text or status, details if isinstance(details, Mapping) else {}


def flat_numbers(values: Mapping[Any, Any], prefix: str = "", depth: int = 3) -> Iterator[tuple[str, float]]:
    """The finite numbers of a map and of the maps in it, as ("outer.inner", number)."""
    for key, value in list(values.items()):
        name = f"{prefix}{one_line(key, 64)}"
        if isinstance(value, Mapping):
            if depth > 1:
                yield from flat_numbers(value, f"{name}.", depth - 1)
        elif isinstance(value, numbers.Integral):
            yield name, int(value)
        elif isinstance(value, numbers.Real) and math.isfinite(value):
            yield name, float(value)


def metrics_text(values: Mapping[Any, Any]) -> str:
    """The numbers of `values` as JSON within METRICS_MAX bytes; those that did not fit are counted in it."""
    kept: list[str] = []
    size = len('{"omitted":1000000}')
    omitted = 0
    for name, number in flat_numbers(values):
        entry = f"{json.dumps(name)}:{json.dumps(number)}"
        if size + len(entry) + 1 > METRICS_MAX:
            omitted += 1
            continue
        kept.append(entry)
        size += len(entry) + 1
    if omitted:
        kept.append(f'"omitted":{omitted}')
    return "{" + ",".join(kept) + "}"


def usec(name: str, default: Optional[float]) -> Optional[float]:
    """The variable `name`, microseconds, in seconds; `default` when it is unset or no positive number."""
    text = os.environ.get(name, "")
    return int(text) / 1e6 if text.isdigit() and int(text) > 0 else default


class Life:
    """One daemon from its first module to its end. `run` is its whole story; the signals come in from the side."""

    def __init__(self, name: str, linger: bool, ready_after: float, stop_limit: float) -> None:
        self.name = name
        self.linger = linger
        self.ready_after = ready_after
        self.stop_limit = stop_limit
        self.notifier = Notifier(os.environ.get("NOTIFY_SOCKET"))
        self.health_interval = usec("RINGRIFT_HEALTH_INTERVAL_USEC", HEALTH_INTERVAL) or HEALTH_INTERVAL
        watched = os.environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self.watchdog = usec("WATCHDOG_USEC", None) if watched else None
        # The daemon's helpers (ssh, rsync, scripts) must not speak for it.
        for variable in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"):
            os.environ.pop(variable, None)
        self.progress = Progress(self.notifier, "starting")
        self.pid = os.getpid()
        self.signals = 0
        self.loop: Optional[asyncio.AbstractEventLoop] = None
        self.stopping: Optional[asyncio.Event] = None
        self.is_ready = False
        self.waited_for: Any = None
        self.work: Any = None
        self.pending: dict[str, tuple[float, asyncio.Future[Any]]] = {}
        self.background: set[asyncio.Future[Any]] = set()
        self.executor = ThreadPoolExecutor(max_workers=2, thread_name_prefix="ask")

    # --- signals -----------------------------------------------------------------------------------------------

    def take_signals(self) -> None:
        """SIGTERM and SIGINT are ours from now on. Daemons that install handlers of their own (several do, and
        forget that they are not alone) are not refused, but not obeyed either."""
        install = signal.signal
        for number in ENDING:
            install(number, self._on_signal)

        def guarded(number: int, handler: Any) -> Any:
            if number in ENDING and os.getpid() == self.pid:
                return signal.getsignal(number)
            return install(number, handler)

        signal.signal = guarded  # type: ignore[assignment]

    def _guard_loop(self, loop: asyncio.AbstractEventLoop) -> None:
        add = loop.add_signal_handler

        def guarded(number: int, callback: Any, *args: Any) -> None:
            if number not in ENDING:
                add(number, callback, *args)

        loop.add_signal_handler = guarded  # type: ignore[method-assign,assignment]

    def _on_signal(self, number: int, _frame: Optional[FrameType]) -> None:
        if os.getpid() != self.pid:
            os._exit(128 + number)  # a forked helper: it has no daemon to stop
        self.signals += 1
        if self.signals > 1 or self.loop is None or self.stopping is None:
            # Told twice, or nothing was started yet.
            self.notifier.send("STOPPING=1")
            os._exit(0)
        # A thread, because the loop may be blocked; no flush, because the log pipe may be.
        limit = self.stop_limit + CANCEL_LIMIT + LAST_RESORT
        last_resort = threading.Timer(limit, os._exit, (0,))
        last_resort.daemon = True
        last_resort.start()
        self.loop.call_soon_threadsafe(self.stopping.set)

    # --- what the supervisor is told ---------------------------------------------------------------------------

    def _insist(self, *lines: str) -> None:
        """Send what must not be lost; a full queue is tried again."""
        if not self.notifier.send(*lines) and self.loop is not None:
            self.loop.call_later(RETRY_EVERY, self._insist, *lines)

    def _beat(self, every: float) -> None:
        """From the loop itself, so that a blocked loop falls silent."""
        self.notifier.send("WATCHDOG=1")
        assert self.loop is not None
        self.loop.call_later(every, self._beat, every)

    def _ready(self, how: str) -> None:
        if self.is_ready or self.loop is None or self.signals:
            return
        self.is_ready = True
        self.progress.end()
        self._insist("READY=1", f"STATUS={how}")
        self._keep(self.loop.create_task(self._report()))

    def _ready_by_time(self, waits: bool) -> None:
        """For a runner that has not said that it waits. One that never will is ready by now. One that `waits` once
        its daemon's start() has returned is ready if the daemon says that it runs: some never return from there."""
        if self.is_ready or self.loop is None:
            return
        if not waits:
            self._ready(f"ready: still runs after {self.ready_after:g} s")
        elif says_it_runs(self._daemon()):
            self._ready("ready: still in start(), and says that it runs")
        else:
            self.loop.call_later(RUNS_EVERY, self._ready_by_time, waits)

    def _keep(self, task: asyncio.Future[Any]) -> None:
        """Hold a reference: the loop alone does not."""
        self.background.add(task)
        task.add_done_callback(self.background.discard)

    async def _report(self) -> None:
        while True:
            self.notifier.send(*await self._look())
            await asyncio.sleep(self.health_interval)

    async def _look(self) -> list[str]:
        """One report. Whatever the daemon does when asked, the worst that follows is "degraded" with its text."""
        lines: list[str] = []
        details: Mapping[str, Any] = {}
        daemon = self._daemon()
        try:
            is_there, answer = await self._ask(daemon, "health_check")
            if is_there:
                health, text, details = judge(answer)
                lines += [f"STATUS={one_line(text and f'{health}: {text}' or health)}", f"X_RINGRIFT_HEALTH={health}"]
            else:
                lines += ["STATUS=running; it has no health check"]
        except Exception as error:
            lines += [f"STATUS={one_line(f'degraded: health_check(): {reason(error)}')}", "X_RINGRIFT_HEALTH=degraded"]
        with contextlib.suppress(Exception):
            is_there, answer = await self._ask(daemon, "get_metrics")
            metrics = metrics_text(answer if is_there and isinstance(answer, Mapping) else details)
            if metrics != "{}":
                lines += [f"X_RINGRIFT_METRICS={metrics}"]
        return lines

    async def _ask(self, daemon: Any, name: str) -> tuple[bool, Any]:
        """Call the daemon's method `name`, if it has one, for ASK_LIMIT at most, and one call at a time."""
        method = getattr(daemon, name, None)
        if not needs_nothing(method):
            return False, None
        begun, call = self.pending.pop(name, (time.monotonic(), None))
        if call is None:
            call = asyncio.ensure_future(self._call(method))
        done, _ = await asyncio.wait({call}, timeout=ASK_LIMIT)
        if not done:
            self.pending[name] = begun, call
            raise TimeoutError(f"no answer for {time.monotonic() - begun:.0f} s")
        return True, call.result()

    async def _call(self, method: Callable[[], Any]) -> Any:
        """A plain function goes to a thread, as in RingRift's own manager: it may block, the loop may not."""
        if inspect.iscoroutinefunction(method):
            return await method()
        answer = await asyncio.get_running_loop().run_in_executor(self.executor, method)
        return await answer if inspect.isawaitable(answer) else answer

    def _daemon(self) -> Any:
        """The daemon: what its runner waits for, or else the first of the runner's variables that looks like one."""
        if self.waited_for is not None:
            return self.waited_for
        frame = getattr(self.work, "cr_frame", None)
        for value in list(frame.f_locals.values()) if frame is not None else ():
            if not inspect.isclass(value) and not inspect.ismodule(value):
                if callable(getattr(value, "health_check", None)) or callable(getattr(value, "stop", None)):
                    return value
        return None

    # --- the daemon --------------------------------------------------------------------------------------------

    async def _waiting(self, original: Callable[..., Awaitable[None]], daemon: Any, *args: Any, **kwargs: Any) -> None:
        """In place of the checkout's wait function. One that returns at once does not wait: it is not ready."""
        self.waited_for = daemon
        assert self.loop is not None
        ready = self.loop.call_soon(self._ready, "ready: started, and waits")
        try:
            await original(daemon, *args, **kwargs)
        finally:
            ready.cancel()

    async def _work(self, runner: Runner) -> None:
        self.work = runner()
        if inspect.isawaitable(self.work):
            await self.work

    async def run(self, module: ModuleType, runner: Runner) -> int:
        """Run the daemon that `runner` of `module` makes until it ends or is told to; the exit code."""
        self.stopping = asyncio.Event()
        self.loop = loop = asyncio.get_running_loop()
        self._guard_loop(loop)
        hook_waits(module, self._waiting)
        if self.watchdog is not None:
            self._beat(self.watchdog / 2)
        loop.call_later(self.ready_after, self._ready_by_time, calls_wait(runner))
        job = loop.create_task(self._work(runner))
        told = loop.create_task(self.stopping.wait())
        await asyncio.wait({job, told}, return_when=asyncio.FIRST_COMPLETED)
        if not self.stopping.is_set():
            code = self._verdict(job)
            if code != EXIT_RETURNED or not self.linger:
                return code
            self._ready("ready: its runner returned, its work goes on in handlers")
            await told
        await self._stop(job)
        return 0

    def _verdict(self, job: asyncio.Future[None]) -> int:
        """Why the runner ended by itself, on stderr and as an exit code."""
        if job.cancelled():
            say(f"{self.name} was cancelled from within")
            return EXIT_FAILED
        error = job.exception()
        if error is None:
            if not self.linger:
                say(f"{self.name} returned by itself: nothing is left to run (a daemon that works on needs --linger)")
            return EXIT_RETURNED
        return complain(self.name, error)

    async def _stop(self, job: asyncio.Future[None]) -> None:
        self._insist("STOPPING=1", "STATUS=stopping")
        stop = getattr(self._daemon(), "stop", None)
        if needs_nothing(stop):
            try:
                # In the loop, not in a thread: it cancels the loop's tasks.
                ending = stop()
                if inspect.isawaitable(ending):
                    task = asyncio.ensure_future(ending)
                    done, _ = await asyncio.wait({task}, timeout=self.stop_limit)
                    if not done:
                        say(f"{self.name}: stop() did not end within {self.stop_limit:g} s")
                    else:
                        task.result()
            except (Exception, asyncio.CancelledError) as error:
                say(f"{self.name}: stop(): {reason(error)}")
        job.cancel()
        await asyncio.wait({job}, timeout=CANCEL_LIMIT)


def complain(name: str, error: BaseException) -> int:
    """A failure's traceback and its one line, and its exit code."""
    if isinstance(error, SystemExit):
        say(f"{name} called sys.exit({error.code!r})")
        return EXIT_FAILED
    traceback.print_exception(type(error), error, error.__traceback__)
    say(f"{reason(error)} (in {name})")
    return EXIT_IMPORT if isinstance(error, ImportError) else EXIT_FAILED


class Parser(argparse.ArgumentParser):
    """argparse ends with 2 where we promise 64."""

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        say(message)
        sys.exit(EXIT_USAGE)


def seconds(text: str) -> float:
    """A time on the command line."""
    value = float(text)
    if not 0 < value <= 86_400:
        raise ValueError
    return value


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = Parser(prog="ringrift_runner.py", description="Run one daemon of a RingRift checkout.")
    parser.add_argument("--linger", action="store_true", help="stay up when the runner function returns")
    parser.add_argument(
        "--ready-after", type=seconds, default=READY_AFTER, metavar="S",
        help="when a runner that never says that it waits counts as ready (default %(default)s)",
    )
    parser.add_argument(
        "--stop-limit", type=seconds, default=STOP_LIMIT, metavar="S",
        help="how long the daemon's stop() may take (default %(default)s)",
    )
    parser.add_argument("runner", metavar="create_NAME", help="a runner function of the checkout")
    options = parser.parse_args(arguments)
    if not options.runner.startswith("create_") or not options.runner.isidentifier():
        parser.error(f"{options.runner!r} is no runner: their names look like create_event_router")
    return options


def main(arguments: list[str]) -> int:
    """The whole program; the exit code."""
    options = parse(arguments)
    life = Life(options.runner, options.linger, options.ready_after, options.stop_limit)
    life.take_signals()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]

    home = os.environ.get("RINGRIFT_HOME", "")
    folder = service_folder(home) if home else None
    if folder is None:
        say(f"RINGRIFT_HOME={home!r} is no RingRift checkout: neither it nor its ai-service has app/coordination")
        return EXIT_IMPORT
    enter(folder)

    life.notifier.send(f"STATUS=starting: importing {RUNNERS_MODULE}")
    life.progress.start()
    try:
        module = importlib.import_module(RUNNERS_MODULE)
        runner = find_runner(module, options.runner)
    except (Exception, SystemExit) as error:
        # Whatever is raised here is raised for every daemon of this checkout, at every try.
        complain(options.runner, error)
        return EXIT_IMPORT
    if runner is None:
        say(f"{options.runner} is unknown to {RUNNERS_MODULE} in {folder}")
        return EXIT_IMPORT
    if not logging.getLogger().handlers:
        level = os.environ.get("RINGRIFT_LOG_LEVEL", "INFO").upper()
        known = isinstance(logging.getLevelName(level), int)
        logging.basicConfig(level=level if known else "INFO", format="%(levelname)s %(name)s: %(message)s")

    # Not asyncio.run: it would wait for whatever tasks and threads the daemon left, without a bound.
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        return loop.run_until_complete(life.run(module, runner))
    except SystemExit as error:  # raised in a task of the daemon, it comes out of the loop
        return complain(options.runner, error)


if __name__ == "__main__":
    leave(main(sys.argv[1:]))
