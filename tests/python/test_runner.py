"""The runner against a small imitation of a RingRift checkout, seen from outside: its datagrams, its exit code, its
last words. Nothing here sleeps: a test waits for a datagram, a line or an exit, each with a deadline, and the imitation
waits at a gate (a FIFO) that the test opens.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
import unittest
from pathlib import Path
from typing import Optional

RUNNER = Path(__file__).resolve().parents[2] / "units" / "runner" / "ringrift_runner.py"
DEADLINE = 30.0

DAEMON_RUNNERS = '''
import asyncio, enum, os, signal, subprocess, sys

print("imported from", os.getcwd(), flush=True)
if os.environ.get("GATE_IMPORT"):
    open(os.environ["GATE"]).read()
if os.environ.get("BREAK_IMPORT"):
    raise AttributeError("type object 'None' has no attribute 'Module'")

async def _wait_for_daemon(daemon, check_interval=0.05):
    while daemon.is_running:
        await asyncio.sleep(check_interval)

def gate():
    open(os.environ["GATE"]).read()

async def passed():
    await asyncio.get_running_loop().run_in_executor(None, gate)

class Daemon:
    def __init__(self):
        self.is_running = True
    async def start(self):
        pass
    async def stop(self):
        print("daemon stopped", flush=True)
        self.is_running = False

class Result:
    def __init__(self, **fields):
        self.__dict__.update(fields)

class Shadowed:
    status, message = "running", "field shadowed by a method"
    def healthy(self):
        return self

async def answer(value):
    return value

def raises():
    raise KeyError("no such table")

class Word(enum.Enum):
    DEGRADED = "degraded"
    RUNNING = "running"

FORMS = {
    "object": lambda: Result(healthy=True, status=Word.RUNNING, message="all\\nwell", details={"games": 3}),
    "unhealthy object": lambda: Result(healthy=False, status=Word.RUNNING, message="disk full"),
    "degraded object": lambda: Result(healthy=False, status=Word.DEGRADED, message="nothing to do"),
    "map": lambda: {"healthy": False, "message": "m"},
    "map without a word": lambda: {"uptime": 3},
    "true": lambda: True,
    "false": lambda: False,
    "none": lambda: None,
    "coroutine": lambda: answer({"healthy": False, "message": "late"}),
    "exception": raises,
    "shadowed": Shadowed,
    "long": lambda: {"healthy": True, "message": "\\u00e4" * 5000},
}

class Asked(Daemon):
    def health_check(self):
        return FORMS[os.environ["FORM"]]()

class Async(Daemon):
    async def health_check(self):
        return {"healthy": True, "message": "async"}
    async def get_metrics(self):
        return {"games": 7}

class Counts(Daemon):
    def get_metrics(self):
        if os.environ.get("FORM") == "many":
            return {f"number_{n}": n for n in range(2000)}
        return {"games": 3, "rate": 0.5, "on": True, "bad": float("nan"), "name": "x", "inner": {"depth": 2, "t": "u"}}

class Choosy(Daemon):
    def health_check(self, which):
        raise AssertionError("never called: it wants an argument")

async def run(daemon):
    await daemon.start()
    await _wait_for_daemon(daemon)

async def create_waits():
    daemon = Daemon()
    await daemon.start()
    print("cwd", os.getcwd(), flush=True)
    child = "import os; print('child', os.environ.get('NOTIFY_SOCKET'), os.environ['PYTHONPATH'])"
    subprocess.run([sys.executable, "-c", child])
    await _wait_for_daemon(daemon)

async def create_plain():
    daemon = Asked()
    await asyncio.Event().wait()

async def create_returns():
    daemon = Daemon()
    daemon.is_running = False
    await _wait_for_daemon(daemon)

async def create_module_missing():
    import ringrift_has_no_such_module

async def create_raises():
    raise TypeError("GossipSync needs\\n'node_id'")

async def create_exits():
    sys.exit(3)

async def create_exits_in_a_task():
    async def task():
        sys.exit(4)
    keep = asyncio.create_task(task())
    await asyncio.Event().wait()

async def create_asked():
    daemon = Asked()
    await _wait_for_daemon(daemon)

async def create_async():
    daemon = Async()
    await _wait_for_daemon(daemon)

async def create_counts():
    daemon = Counts()
    await _wait_for_daemon(daemon)

async def create_choosy():
    daemon = Choosy()
    await _wait_for_daemon(daemon)

class HangingCheck(Daemon):
    def health_check(self):
        gate()
        return True

async def create_hanging_check():
    daemon = HangingCheck()
    await _wait_for_daemon(daemon)

class HangingStop(Daemon):
    async def stop(self):
        await asyncio.Event().wait()

async def create_hanging_stop():
    daemon = HangingStop()
    while True:
        try:
            await _wait_for_daemon(daemon)
        except asyncio.CancelledError:
            print("cancelled, and goes on", flush=True)

class FailingStop(Daemon):
    def stop(self):
        raise OSError("cannot save")

async def create_failing_stop():
    daemon = FailingStop()
    await _wait_for_daemon(daemon)

async def create_takes_signals():
    daemon = Daemon()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, lambda: print("stolen", flush=True))
    await _wait_for_daemon(daemon)

async def create_blocks():
    daemon = Daemon()
    async def block():
        await asyncio.sleep(0.2)
        print("blocks", flush=True)
        gate()
        print("turns", flush=True)
    keep = asyncio.create_task(block())
    await _wait_for_daemon(daemon)

class Slow(Daemon):
    def __init__(self):
        self.is_running = False
    async def start(self):
        await passed()
        self.is_running = True
        if os.environ.get("FORM") == "for ever":
            await asyncio.Event().wait()

async def create_slow():
    daemon = Slow()
    await daemon.start()
    await _wait_for_daemon(daemon)

def get_all_runners():
    from app.coordination import runners
    here = {k[7:].upper(): f for k, f in globals().items() if k.startswith("create_")}
    return {**here, "SPLIT_OFF": runners.create_split_off}
'''

SPLIT_OFF = '''
import asyncio
async def _wait_for_daemon(daemon):
    await asyncio.Event().wait()
async def create_split_off():
    await _wait_for_daemon(object())
'''


class Checkout(unittest.TestCase):
    """A checkout, a supervisor's socket, and what a process under test said on it."""

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = Path(folder.name).resolve()
        self.service = self.root / "ai-service"
        coordination = self.service / "app" / "coordination"
        (coordination / "runners").mkdir(parents=True)
        (self.service / "app" / "__init__.py").touch()
        (coordination / "__init__.py").touch()
        (coordination / "daemon_runners.py").write_text(textwrap.dedent(DAEMON_RUNNERS))
        (coordination / "runners" / "__init__.py").write_text(SPLIT_OFF)
        self.gate = self.root / "gate"
        os.mkfifo(self.gate)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.addCleanup(self.socket.close)
        self.socket.bind(str(self.root / "notify"))
        self.heard: list[tuple[str, str]] = []
        self.process: Optional[subprocess.Popen[str]] = None

    def start(self, *arguments: str, home: Optional[Path] = None, **environment: str) -> None:
        """Start the runner; a second start in one test forgets what the first process said."""
        self.finish()
        self.heard.clear()
        clean = {k: v for k, v in os.environ.items() if k in ("PATH", "HOME", "LANG", "TMPDIR")}
        clean.update(
            NOTIFY_SOCKET=str(self.root / "notify"), RINGRIFT_HOME=str(home or self.root), GATE=str(self.gate),
            PYTHONDONTWRITEBYTECODE="1", **environment,
        )
        self.stderr = open(self.root / "stderr", "w+", encoding="utf-8")
        self.process = subprocess.Popen(
            [sys.executable, str(RUNNER), *arguments],
            env=clean, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=self.stderr, text=True,
        )
        self.addCleanup(self.finish)

    def finish(self) -> None:
        if self.process is not None:
            if self.process.poll() is None:
                self.process.kill()
            self.process.wait()
            self.process.stdout.close()
            self.stderr.close()
            self.process = None
        self.socket.setblocking(False)
        while True:
            try:
                self.socket.recv(65536)
            except BlockingIOError:
                break

    def take(self, timeout: float) -> bool:
        """Read one datagram into `heard`, and hold it to the supervisor's bounds."""
        self.socket.settimeout(timeout)
        try:
            data = self.socket.recv(65536)
        except (socket.timeout, BlockingIOError):
            return False
        self.assertLessEqual(len(data), 4096)
        for line in data.decode("utf-8").split("\n"):
            key, equals, value = line.partition("=")
            self.assertEqual(equals, "=", f"not an assignment: {line!r}")
            if key == "STATUS":
                self.assertLessEqual(len(value.encode()), 512)
            self.heard.append((key, value))
        return True

    def hear(self, key: str, value: Optional[str] = None) -> str:
        """Wait for `key`, or for it with this value, unless it was heard already; its value."""
        limit = time.monotonic() + DEADLINE
        while True:
            for name, said in self.heard:
                if name == key and value in (None, said):
                    return said
            left = limit - time.monotonic()
            if left <= 0 or not self.take(left):
                self.fail(f"no {key}={value or '…'} within {DEADLINE:g} s; heard {self.heard}; {self.errors()}")

    def all_of(self, key: str) -> list[str]:
        """Every value of `key` so far, what waits in the socket included."""
        while self.take(0):
            pass
        return [value for name, value in self.heard if name == key]

    def line(self, wanted: str) -> str:
        """Wait for a line on stdout that begins so."""
        limit = time.monotonic() + DEADLINE
        while True:
            ready, _, _ = select.select([self.process.stdout], [], [], max(0.0, limit - time.monotonic()))
            text = self.process.stdout.readline() if ready else ""
            self.assertTrue(text, f"no line {wanted!r}; {self.errors()}")
            if text.startswith(wanted):
                return text.rstrip("\n")

    def open_gate(self) -> None:
        with open(self.gate, "w"):
            pass

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def errors(self) -> str:
        return (self.root / "stderr").read_text("utf-8")

    def assert_ends(self, code: int, last_words: str = "") -> None:
        """It exits with `code`, and the last line of stderr holds `last_words`."""
        self.assertEqual(self.process.wait(DEADLINE), code, self.errors())
        if last_words:
            lines = self.errors().splitlines()
            self.assertIn(last_words, lines[-1])
            self.assertTrue(lines[-1].startswith("ringrift_runner: "), lines[-1])

    def stop(self) -> None:
        self.terminate()
        self.assert_ends(0)


class Readiness(Checkout):
    def test_ready_when_the_daemon_waits(self) -> None:
        self.start("create_waits", "--ready-after", "3600")
        self.hear("READY", "1")
        self.assertIn("ready: started, and waits", self.all_of("STATUS"))
        self.stop()
        self.assertEqual(self.all_of("READY"), ["1"])

    def test_ready_by_time_where_a_runner_never_says_that_it_waits(self) -> None:
        self.start("create_plain", "--ready-after", "0.1", FORM="map")
        self.hear("READY", "1")
        self.hear("X_RINGRIFT_HEALTH", "unhealthy")  # the daemon was found all the same
        self.stop()

    def test_not_ready_by_time_while_a_start_goes_on(self) -> None:
        self.start("create_slow", "--ready-after", "0.1", WATCHDOG_USEC="200000")
        while len(self.all_of("WATCHDOG")) < 15:
            self.assertTrue(self.take(DEADLINE), self.errors())
        self.assertEqual(self.all_of("READY"), [])
        self.open_gate()
        self.hear("READY", "1")
        self.stop()

    def test_ready_when_a_start_that_never_returns_says_that_it_runs(self) -> None:
        self.start("create_slow", "--ready-after", "0.1", FORM="for ever")
        self.open_gate()
        self.hear("READY", "1")
        self.stop()

    def test_wait_functions_of_split_off_modules_count(self) -> None:
        self.start("create_split_off", "--ready-after", "3600")
        self.hear("READY", "1")
        self.stop()

    def test_slow_imports_ask_for_more_time(self) -> None:
        self.start("create_waits", GATE_IMPORT="1")
        self.assertEqual(self.hear("EXTEND_TIMEOUT_USEC"), "30000000")
        self.assertEqual(self.all_of("READY"), [])
        self.open_gate()
        self.hear("READY", "1")
        self.stop()

    def test_works_in_the_checkout_and_lends_helpers_no_voice(self) -> None:
        for home in (self.root, self.service):
            with self.subTest(home=home.name):
                self.start("create_waits", home=home)
                self.assertEqual(self.line("cwd"), f"cwd {self.service}")
                self.assertEqual(self.line("child"), f"child None {self.service}")
                self.stop()


class Ends(Checkout):
    def test_a_runner_that_returns_is_permanent(self) -> None:
        self.start("create_returns")
        self.assert_ends(65, "create_returns returned by itself")
        self.assertEqual(self.all_of("READY"), [])

    def test_lingers_when_told_to(self) -> None:
        self.start("--linger", "create_returns")
        self.hear("READY", "1")
        self.stop()
        self.line("daemon stopped")

    def test_a_missing_module_is_permanent(self) -> None:
        self.start("create_module_missing")
        self.assert_ends(66, "ModuleNotFoundError: No module named 'ringrift_has_no_such_module'")

    def test_a_checkout_that_cannot_be_imported_is_permanent(self) -> None:
        self.start("create_waits", BREAK_IMPORT="1")
        self.assert_ends(66, "AttributeError: type object 'None' has no attribute 'Module'")

    def test_an_unknown_runner_is_permanent(self) -> None:
        self.start("create_nonsense")
        self.assert_ends(66, "create_nonsense is unknown to app.coordination.daemon_runners")

    def test_no_checkout_is_permanent(self) -> None:
        self.start("create_waits", home=self.root / "nowhere")
        self.assert_ends(66, "is no RingRift checkout")

    def test_an_exception_is_not_and_takes_one_line(self) -> None:
        self.start("--linger", "create_raises")
        self.assert_ends(1, "TypeError: GossipSync needs 'node_id' (in create_raises)")
        self.assertIn("Traceback", self.errors())

    def test_sys_exit_is_a_failure(self) -> None:
        self.start("create_exits")
        self.assert_ends(1, "create_exits called sys.exit(3)")
        self.start("create_exits_in_a_task")
        self.assert_ends(1, "create_exits_in_a_task called sys.exit(4)")

    def test_usage(self) -> None:
        wrong = ((), ("event_router",), ("--nonsense", "create_waits"), ("create_waits", "--ready-after", "-1"))
        for arguments in wrong:
            with self.subTest(arguments=arguments):
                self.start(*arguments)
                self.assert_ends(64, "ringrift_runner: ")


class Stopping(Checkout):
    def test_sigterm_stops_the_daemon_and_ends_with_0(self) -> None:
        self.start("create_waits")
        self.hear("READY", "1")
        self.terminate()
        self.hear("STOPPING", "1")
        self.assert_ends(0)
        self.line("daemon stopped")

    def test_sigterm_while_importing(self) -> None:
        self.start("create_waits", GATE_IMPORT="1")
        self.line("imported from")
        self.terminate()
        self.hear("STOPPING", "1")
        self.assert_ends(0)

    def test_a_stop_that_hangs_is_bounded(self) -> None:
        self.start("create_hanging_stop", "--stop-limit", "0.2")
        self.hear("READY", "1")
        self.terminate()
        self.assert_ends(0, "create_hanging_stop: stop() did not end within 0.2 s")

    def test_a_stop_that_fails_is_said(self) -> None:
        self.start("create_failing_stop")
        self.hear("READY", "1")
        self.terminate()
        self.assert_ends(0, "create_failing_stop: stop(): OSError: cannot save")

    def test_a_second_sigterm_ends_it_at_once(self) -> None:
        self.start("create_hanging_stop", "--stop-limit", "3600")
        self.hear("READY", "1")
        self.terminate()
        self.hear("STOPPING", "1")
        self.stop()

    def test_a_blocked_loop_ends_too(self) -> None:
        self.start("create_blocks", "--stop-limit", "0.1")
        self.line("blocks")
        self.stop()

    def test_handlers_that_a_daemon_installs_do_not_count(self) -> None:
        self.start("create_takes_signals")
        self.hear("READY", "1")
        self.stop()
        self.line("daemon stopped")


class Reports(Checkout):
    def report(self, form: str) -> tuple[str, str]:
        self.start("create_asked", FORM=form)
        health = self.hear("X_RINGRIFT_HEALTH")
        return health, self.all_of("STATUS")[-1]

    def test_every_form_of_a_health_check(self) -> None:
        cases = {
            "object": ("healthy", "healthy: all well"),
            "unhealthy object": ("unhealthy", "unhealthy: disk full"),
            "degraded object": ("degraded", "degraded: nothing to do"),
            "map": ("unhealthy", "unhealthy: m"),
            "map without a word": ("healthy", "healthy"),
            "true": ("healthy", "healthy"),
            "false": ("unhealthy", "unhealthy"),
            "none": ("healthy", "healthy"),
            "coroutine": ("unhealthy", "unhealthy: late"),
            "exception": ("degraded", "degraded: health_check(): KeyError: 'no such table'"),
            "shadowed": ("healthy", "healthy: field shadowed by a method"),
        }
        for form, expected in cases.items():
            with self.subTest(form=form):
                self.assertEqual(self.report(form), expected)
                self.stop()

    def test_a_long_text_is_cut_at_a_character(self) -> None:
        health, status = self.report("long")
        self.assertEqual(health, "healthy")
        self.assertTrue(status.endswith("…"), status[-9:])
        self.assertGreater(len(status.encode()), 500)

    def test_a_coroutine_function_is_awaited(self) -> None:
        self.start("create_async")
        self.hear("X_RINGRIFT_HEALTH", "healthy")
        self.assertEqual(json.loads(self.hear("X_RINGRIFT_METRICS")), {"games": 7})
        self.assertIn("healthy: async", self.all_of("STATUS"))

    def test_metrics_are_the_finite_numbers(self) -> None:
        self.start("create_counts")
        metrics = json.loads(self.hear("X_RINGRIFT_METRICS"))
        self.assertEqual(metrics, {"games": 3, "rate": 0.5, "on": 1, "inner.depth": 2})

    def test_metrics_of_a_health_checks_details(self) -> None:
        self.start("create_asked", FORM="object")
        self.assertEqual(json.loads(self.hear("X_RINGRIFT_METRICS")), {"games": 3})

    def test_metrics_that_do_not_fit_are_counted(self) -> None:
        self.start("create_counts", FORM="many")
        metrics = json.loads(self.hear("X_RINGRIFT_METRICS"))
        self.assertEqual(len(metrics) - 1 + metrics["omitted"], 2000)
        self.assertGreater(len(metrics), 100)

    def test_a_check_that_wants_an_argument_is_none(self) -> None:
        self.start("create_choosy")
        self.hear("STATUS", "running; it has no health check")
        self.assertEqual(self.all_of("X_RINGRIFT_HEALTH"), [])

    def test_reports_come_as_often_as_told(self) -> None:
        self.start("create_asked", FORM="true", RINGRIFT_HEALTH_INTERVAL_USEC="50000")
        while len(self.all_of("X_RINGRIFT_HEALTH")) < 5:
            self.assertTrue(self.take(DEADLINE), self.errors())

    def test_a_check_that_hangs_is_degraded_and_holds_nothing_up(self) -> None:
        self.start("create_hanging_check", WATCHDOG_USEC="200000")
        self.assertEqual(self.hear("X_RINGRIFT_HEALTH"), "degraded")
        self.assertIn("degraded: health_check(): TimeoutError: no answer for 5 s", self.all_of("STATUS"))
        self.assertGreater(len(self.all_of("WATCHDOG")), 10)


class Watchdog(Checkout):
    def test_beats_twice_in_each_period(self) -> None:
        self.start("create_waits", WATCHDOG_USEC="400000")
        self.hear("WATCHDOG", "1")
        begun = time.monotonic()
        while len(self.all_of("WATCHDOG")) < 6:
            self.assertTrue(self.take(DEADLINE), self.errors())
        self.assertGreater(time.monotonic() - begun, 0.5)

    def test_does_not_beat_unasked_nor_for_another_process(self) -> None:
        for environment in ({}, {"WATCHDOG_USEC": "100000", "WATCHDOG_PID": "1"}):
            with self.subTest(environment=environment):
                self.start("create_asked", FORM="true", RINGRIFT_HEALTH_INTERVAL_USEC="50000", **environment)
                while len(self.all_of("X_RINGRIFT_HEALTH")) < 5:
                    self.assertTrue(self.take(DEADLINE), self.errors())
                self.assertEqual(self.all_of("WATCHDOG"), [])

    def test_a_blocked_loop_falls_silent(self) -> None:
        self.start("create_blocks", WATCHDOG_USEC="100000")
        self.hear("WATCHDOG", "1")
        self.line("blocks")
        self.all_of("WATCHDOG")
        self.assertFalse(self.take(1.0), f"it went on: {self.heard[-1]}")
        self.open_gate()
        self.line("turns")
        self.assertTrue(self.take(DEADLINE))
        self.assertEqual(self.heard[-1], ("WATCHDOG", "1"))


if __name__ == "__main__":
    unittest.main()
