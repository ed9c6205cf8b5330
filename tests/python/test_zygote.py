"""The zygote, with the test in the keeper's place: it makes the sockets, asks, looks at who is at the gate, opens it and
reaps. The test is a subreaper, as the keeper is. Nothing here sleeps: each wait is for a datagram, an end of file or an
exit, with a deadline that only a hung process meets.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import unittest
from pathlib import Path
from typing import Any, Optional

ZYGOTE = Path(__file__).resolve().parents[2] / "units" / "runner" / "ringrift_zygote.py"
DEADLINE = 60.0
PR_SET_CHILD_SUBREAPER = 36
INVOCATION = "0123456789abcdef0123456789abcdef"

PRELOADED = """
import asyncio, logging, os, random, signal, sys, threading

hooks = []
os.register_at_fork(after_in_child=lambda: hooks.append("after_in_child"))
signal.signal(signal.SIGUSR1, lambda *_: None)
signal.signal(signal.SIGHUP, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
random.seed(1)
# A descriptor alone: CPython 3.9 crashes at its end when a module that os.register_at_fork keeps has an open file.
kept = os.open("kept.txt", os.O_CREAT | os.O_WRONLY)
logging.getLogger("kept").addHandler(logging.FileHandler("kept.log"))
class Policy(asyncio.DefaultEventLoopPolicy if sys.version_info < (3, 14) else object):
    pass
policy = None
if sys.version_info < (3, 14):
    policy = Policy()
    asyncio.set_event_loop_policy(policy)
    asyncio.set_event_loop(asyncio.new_event_loop())
"""

# Says everything about the process that it runs in, as one line of JSON.
TELLING = """
import asyncio, ctypes, json, logging, os, random, signal, stat, sys, threading
import preloaded
logging.getLogger("kept").warning("from a child")
mask = os.umask(0); os.umask(mask)
def place(fd):
    return os.readlink(f"/proc/self/fd/{fd}")
getenv = ctypes.CDLL(None).getenv
getenv.restype = ctypes.c_char_p
loop = None
if sys.version_info < (3, 14):
    policy = asyncio.get_event_loop_policy()
    loop = [type(policy).__name__, policy is preloaded.policy, policy._local._loop is None]
told = {
    "pid": os.getpid(), "ppid": os.getppid(), "sid": os.getsid(0), "pgid": os.getpgid(0),
    "argv": sys.argv, "path0": sys.path[0], "cwd": os.getcwd(), "umask": mask, "env": dict(os.environ),
    "c_env": (getenv(b"WORD") or b"-").decode(), "c_gone": getenv(b"ONLY_ZYGOTE") is None,
    "stdin": sys.stdin.read(), "name": __name__, "file": __file__, "main": sys.modules["__main__"].__file__,
    "hooks": preloaded.hooks, "random": [random.random() for _ in range(4)],
    "fds": {fd: place(fd) for fd in sorted(int(e) for e in os.listdir("/proc/self/fd")) if os.path.exists(f"/proc/self/fd/{fd}")},
    "usr1": signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL, "hup": signal.getsignal(signal.SIGHUP) == signal.SIG_DFL,
    "term": signal.getsignal(signal.SIGTERM) == signal.SIG_DFL,
    "int": signal.getsignal(signal.SIGINT) == signal.default_int_handler,
    "blocked": [int(s) for s in signal.pthread_sigmask(signal.SIG_BLOCK, [])],
    "threads": threading.active_count(), "is_main": threading.current_thread() is threading.main_thread(),
    "loop": loop, "no_new_privs": ctypes.CDLL(None).prctl(39, 0, 0, 0, 0),
    "log": open(os.path.join(os.path.dirname(preloaded.__file__), "kept.log")).read(),
}
if sys.argv[1:] == ["--further"]:
    told["further"] = os.read(7, 100).decode()
print(json.dumps(told))
sys.exit(int(os.environ.get("CODE", "0")))
"""


class Answer:
    """What came of a request: a child at the gate, or a reason."""

    def __init__(self, gate: socket.socket, output: int) -> None:
        self.gate = gate
        self.output = output
        self.sender = 0
        self.said = b""

    def open(self, pid: Optional[int] = None) -> None:
        self.gate.send(b"GO %d" % (self.sender if pid is None else pid))


class ZygoteTest(unittest.TestCase):
    """One zygote for each test, in a folder of its own."""

    @classmethod
    def setUpClass(cls) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "PR_SET_CHILD_SUBREAPER")

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(os.path.realpath(folder.name))
        (self.folder / "preloaded.py").write_text(PRELOADED)
        (self.folder / "telling.py").write_text(TELLING)
        self.zygote: Optional[subprocess.Popen[bytes]] = None

    def start(self, *modules: str, ready: bool = True, **environment: str) -> None:
        self.link, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.addCleanup(self.link.close)
        self.notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.addCleanup(self.notify.close)
        self.notify.bind(str(self.folder / f"notify{theirs.fileno()}"))
        self.zygote_env = {
            "PATH": os.environ["PATH"],
            "RINGRIFT_INVOCATION_ID": "f" * 32,
            "RINGRIFT_ROLE": "main",
            "RINGRIFT_ZYGOTE_FD": str(theirs.fileno()),
            "NOTIFY_SOCKET": self.notify.getsockname(),
            "ONLY_ZYGOTE": "of the zygote's",
            **environment,
        }
        self.errors = open(self.folder / "zygote.err", "wb")
        self.addCleanup(self.errors.close)
        self.zygote = subprocess.Popen(
            [sys.executable, str(ZYGOTE), "--path", str(self.folder), *(modules or ("preloaded",))],
            pass_fds=[theirs.fileno()], env=self.zygote_env, cwd=self.folder, stderr=self.errors,
            stdin=subprocess.DEVNULL,
        )
        self.addCleanup(self.end, self.zygote)
        theirs.close()
        self.link.settimeout(DEADLINE)
        self.notify.settimeout(DEADLINE)
        if ready:
            self.assertEqual(self.link.recv(64), b"READY 1", self.stderr())

    def end(self, zygote: subprocess.Popen[bytes]) -> None:
        if zygote.poll() is None:
            zygote.kill()
        zygote.wait(DEADLINE)

    def stderr(self) -> str:
        return (self.folder / "zygote.err").read_text()

    def fields(self, *argv: str, **changed: Any) -> list[tuple[str, str]]:
        env = {
            "WORD": "two\nlines", **changed.pop("env", {}),
            "RINGRIFT_INVOCATION_ID": INVOCATION, "RINGRIFT_ROLE": "main", "RINGRIFT_UNIT": "a_unit",
        }
        fields = [
            ("program", changed.pop("program", sys.executable)),
            *(("argv", word) for word in (argv or ("python3", "telling.py"))),
            *(("env", f"{name}={value}") for name, value in env.items()),
            ("dir", changed.pop("dir", str(self.folder))),
            ("umask", changed.pop("umask", "027")),
        ]
        return fields + changed.pop("more", [])

    def ask(self, *argv: str, text: str = "", further: tuple[int, ...] = (), word: bytes = b"FORK",
            body: Optional[bytes] = None, **changed: Any) -> Answer:
        """Asks for a process, and hears what comes to the gate first."""
        if body is None:
            body = b"".join(f"{name}={value}".encode() + b"\0" for name, value in self.fields(*argv, **changed))
        with tempfile.TemporaryFile() as request, tempfile.TemporaryFile() as stdin:
            request.write(body)
            request.flush()
            stdin.write(text.encode())
            stdin.seek(0)
            gate, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            self.addCleanup(gate.close)
            gate.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
            gate.settimeout(DEADLINE)
            output, write = os.pipe()
            self.addCleanup(os.close, output)
            fds = [request.fileno(), theirs.fileno(), stdin.fileno(), write, write, *further]
            socket.send_fds(self.link, [word], fds)
            theirs.close()
            os.close(write)
        answer = Answer(gate, output)
        answer.said, ancillary, _, _ = gate.recvmsg(1024, socket.CMSG_SPACE(12))
        for _, kind, data in ancillary:
            if kind == socket.SCM_CREDENTIALS:
                answer.sender = int.from_bytes(data[:4], sys.byteorder)
        return answer

    def output(self, answer: Answer) -> str:
        """All that it writes until it ends."""
        text = b""
        while True:
            self.assertTrue(select.select([answer.output], [], [], DEADLINE)[0], "no end of output")
            part = os.read(answer.output, 65536)
            if not part:
                return text.decode()
            text += part

    def told(self, answer: Answer) -> tuple[dict[str, Any], int]:
        """What a process says of itself, and its exit code, which only a parent can get."""
        self.assertEqual(answer.said, b"HERE", self.stderr())
        answer.open()
        text = self.output(answer)
        code = os.waitstatus_to_exitcode(os.waitpid(answer.sender, 0)[1])
        return json.loads(text), code

    def refused(self, answer: Answer) -> str:
        self.assertTrue(answer.said.startswith(b"REFUSED "), answer.said)
        self.assertEqual(self.output(answer), "", "a refused request leaves nobody who could write")
        return answer.said[8:].decode()

    # --- what a child is -------------------------------------------------------------------------------------------

    def test_a_child_is_what_was_asked_for(self) -> None:
        self.start()
        read, write = os.pipe()
        self.addCleanup(os.close, read)
        os.write(write, b"passed on")
        os.close(write)
        script = str(self.folder / "telling.py")
        answer = self.ask("python3", "-u", script, "--further", text="from stdin", further=(read,), dir="/usr",
                          env={"CODE": "7"}, more=[("fd", "7"), ("pid_env", "WATCHDOG_PID"), ("no_new_privs", "1")])
        told, code = self.told(answer)
        self.assertEqual(code, 7)
        self.assertEqual((told["pid"], told["ppid"]), (answer.sender, os.getpid()))
        self.assertEqual((told["sid"], told["pgid"]), (answer.sender, answer.sender))
        self.assertEqual(told["argv"], [script, "--further"])
        self.assertEqual((told["path0"], told["cwd"], told["umask"]), (str(self.folder), "/usr", 0o27))
        self.assertEqual((told["stdin"], told["further"]), ("from stdin", "passed on"))
        self.assertEqual((told["name"], told["file"], told["main"]), ("__main__", script, script))
        told["env"].pop("LC_CTYPE", None)  # where the interpreter adds it (PEP 538)
        self.assertEqual(told["env"], {
            "RINGRIFT_INVOCATION_ID": INVOCATION, "RINGRIFT_ROLE": "main", "RINGRIFT_UNIT": "a_unit",
            "WORD": "two\nlines", "CODE": "7", "WATCHDOG_PID": str(answer.sender),
        })
        self.assertEqual((told["c_env"], told["c_gone"]), ("two\nlines", True))
        self.assertEqual(told["no_new_privs"], 1)

    def test_a_child_has_nothing_of_the_zygotes_that_cannot_be_shared(self) -> None:
        self.start()
        first, _ = self.told(self.ask())
        second, _ = self.told(self.ask())
        self.assertNotEqual(first["random"], second["random"])
        self.assertIn("after_in_child", first["hooks"])
        for what in ("usr1", "hup", "term", "int", "is_main"):
            self.assertTrue(first[what], what)
        self.assertEqual((first["blocked"], first["threads"]), ([], 1))
        if first["loop"] is not None:
            self.assertEqual(first["loop"], ["Policy", False, True])
        # Streams, and what modules opened: that number is /dev/null now, so that nobody closes another's.
        own = {fd: place for fd, place in first["fds"].items() if int(fd) > 2}
        self.assertTrue(own)
        # The log file's is a new one, at a number that was free.
        self.assertEqual(sorted(set(own.values())), sorted({os.devnull, str(self.folder / "kept.log")}))
        # A log file that was opened at import goes on, at a descriptor of the child's own.
        self.assertEqual(second["log"].count("from a child"), 2)

    def test_marks_and_title_stand_where_the_kernel_shows_them(self) -> None:
        self.start()
        answer = self.ask("python3", "telling.py", "one", "two")
        about = Path(f"/proc/{answer.sender}")
        environment = (about / "environ").read_bytes().split(b"\0")
        self.assertIn(f"RINGRIFT_INVOCATION_ID={INVOCATION}".encode(), environment)
        self.assertIn(b"RINGRIFT_ROLE=main", environment)
        self.assertFalse([entry for entry in environment if entry.startswith(b"ONLY_ZYGOTE") or b"f" * 32 in entry])
        self.assertEqual((about / "cmdline").read_bytes().rstrip(b"\0"), b"python3\0telling.py\0one\0two")
        self.assertEqual((about / "comm").read_text(), "a_unit\n")
        self.told(answer)

    def test_marks_come_first_where_there_is_no_room_for_all(self) -> None:
        self.start()
        # The small ones alone would leave no room.
        small = {f"SMALL{n}": "y" for n in range(100)}
        answer = self.ask(env={"LARGE": "x" * 100_000, "SMALL": "y", **small})
        environment = Path(f"/proc/{answer.sender}/environ").read_bytes().split(b"\0")
        marks = [f"RINGRIFT_INVOCATION_ID={INVOCATION}".encode(), b"RINGRIFT_ROLE=main", b"RINGRIFT_UNIT=a_unit"]
        self.assertEqual(environment[:3], marks)
        told, _ = self.told(answer)
        self.assertEqual((len(told["env"]["LARGE"]), told["env"]["SMALL"]), (100_000, "y"))

    def test_a_module_is_run_as_python_runs_it(self) -> None:
        package = self.folder / "package"
        package.mkdir()
        (package / "__init__.py").write_text("")
        (package / "__main__.py").write_text(
            "import json, sys; print(json.dumps([sys.argv, __name__, __package__, __spec__.name]))"
        )
        self.start()
        told, _ = self.told(self.ask("python3", "-m", "package", "word"))
        self.assertEqual(told, [[str(package / "__main__.py"), "word"], "__main__", "package", "package.__main__"])

    def test_a_script_that_has_changed_runs_as_it_is_now(self) -> None:
        script = self.folder / "changing.py"
        self.start()
        for text in ("1", "22"):
            script.write_text(f"print({text})")
            self.assertEqual(self.told(self.ask("python3", "changing.py"))[0], int(text))

    def test_a_script_is_found_as_the_kernel_finds_it(self) -> None:
        deep = self.folder / "deep" / "deeper"
        deep.mkdir(parents=True)
        (self.folder / "link").symlink_to(deep)
        (self.folder / "asked.py").write_text("print(1)")
        (self.folder / "deep" / "asked.py").write_text("print(2)")
        self.start()
        self.assertEqual(self.told(self.ask("python3", "link/../asked.py"))[0], 2)

    def test_no_script_ends_the_zygote_or_holds_it_up(self) -> None:
        (self.folder / "nested.py").write_text("-" * 200_000 + "1")
        os.mkfifo(self.folder / "fifo.py")
        self.start()
        answer = self.ask("python3", "nested.py")
        self.assertEqual(answer.said, b"HERE", self.stderr())
        answer.gate.close()
        answer = self.ask("python3", "fifo.py")
        self.assertEqual(answer.said, b"HERE", self.stderr())
        answer.gate.close()
        self.told(self.ask())

    def test_an_exception_ends_a_child_as_it_ends_a_program(self) -> None:
        (self.folder / "raising.py").write_text("raise KeyError('no such table')")
        self.start()
        answer = self.ask("python3", "raising.py")
        answer.open()
        self.assertIn("KeyError: 'no such table'", self.output(answer))
        self.assertEqual(os.waitstatus_to_exitcode(os.waitpid(answer.sender, 0)[1]), 1)

    # --- the gate --------------------------------------------------------------------------------------------------

    def test_nothing_runs_before_the_gate_is_opened_and_nothing_at_all_when_it_is_shut(self) -> None:
        self.start()
        for shut in (lambda a: a.gate.close(), lambda a: a.open(1), lambda a: a.gate.send(b"SOMETHING")):
            answer = self.ask()
            self.assertEqual(answer.said, b"HERE")
            shut(answer)
            self.assertEqual(self.output(answer), "")
            self.assertEqual(os.waitstatus_to_exitcode(os.waitpid(answer.sender, 0)[1]), 0)

    def test_a_gate_without_anybody_before_it_is_at_its_end(self) -> None:
        self.start()
        answer = self.ask()
        os.kill(answer.sender, signal.SIGKILL)
        self.assertEqual(answer.gate.recv(64), b"", "neither the zygote nor anybody else holds it")
        os.waitpid(answer.sender, 0)

    # --- refusals --------------------------------------------------------------------------------------------------

    def test_threads_are_named(self) -> None:
        (self.folder / "threaded.py").write_text(textwrap.dedent("""
            import threading
            for name in ("sampler", "watcher"):
                threading.Thread(target=threading.Event().wait, name=name, daemon=True).start()
        """))
        self.start("threaded")
        self.assertEqual(self.refused(self.ask()), "2 more threads run here: sampler, watcher")
        said = ""
        while "READY=1" not in said:
            said = self.notify.recv(4096).decode()
        self.assertIn("STATUS=cannot fork: 2 more threads run here: sampler, watcher", said)

    def test_what_cannot_be_had_by_forking_is_refused_with_the_reason(self) -> None:
        self.start(PYTHONHASHSEED="7")
        same = {"PYTHONHASHSEED": "7"}
        cases = [
            (self.ask(), "PYTHONHASHSEED differs"),
            (self.ask(env={**same, "LD_PRELOAD": "x.so"}), "LD_PRELOAD differs"),
            (self.ask(env={**same, "LC_ALL": "C"}), "LC_ALL differs"),
            (self.ask("python3", "-O", "telling.py", env=same), "can be forked, not -O"),
            (self.ask("python3", env=same), "not no script"),
            (self.ask("sh", "-c", "true", program="/bin/sh", env=same), "/bin/sh is not "),
            (self.ask(dir="/nowhere", env=same), "FileNotFoundError: "),
            (self.ask(umask="999", env=same), "a number that is none"),
            (self.ask(more=[("fd", "2")], env=same), "the place of a standard stream"),
            (self.ask(more=[("fd", "5")], env=same), "0 further descriptors came, and 1 are named"),
            (self.ask(more=[("colour", "red")], env=same), "not known here: b'colour'"),
            (self.ask(body=b"program=/bin/sh\0argv=x"), "cut off"),
            (self.ask(body=b"program\0"), "has no value"),
            (self.ask(body=b""), "lacks program, argv, dir or umask"),
            (self.ask(word=b"FORK 2"), "not understood"),
        ]
        for answer, reason in cases:
            with self.subTest(reason):
                self.assertIn(reason, self.refused(answer))
        told, _ = self.told(self.ask(env={**same, "PYTHONPATH": "/usr", "PYTHONUNBUFFERED": "1"}))
        self.assertEqual(told["env"]["PYTHONPATH"], "/usr")
        # A child that could not change its folder is the only one that was made and refused.
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, _ = os.waitpid(-1, os.WNOHANG)
                self.assertNotEqual(pid, 0, "a refused child lives")
                if pid == self.zygote.pid:
                    self.fail("the zygote has ended")
                break

    def test_descriptors_that_are_no_request_are_closed(self) -> None:
        self.start()
        read, write = os.pipe()
        socket.send_fds(self.link, [b"FORK"], [write])
        os.close(write)
        self.assertEqual(os.read(read, 1), b"")
        os.close(read)
        self.told(self.ask())

    # --- its own life ----------------------------------------------------------------------------------------------

    def test_many_children_leave_nothing_in_it(self) -> None:
        (self.folder / "short.py").write_text("")
        self.start()
        about = Path(f"/proc/{self.zygote.pid}")

        def held() -> tuple[int, int, str]:
            children = about / "task" / str(self.zygote.pid) / "children"
            shown = children.read_text() if children.exists() else ""
            return len(os.listdir(about / "fd")), len(os.listdir(about / "task")), shown

        before = None
        for _ in range(40):
            answer = self.ask("python3", "short.py")
            answer.open()
            self.assertEqual(self.output(answer), "")
            self.assertEqual(os.waitstatus_to_exitcode(os.waitpid(answer.sender, 0)[1]), 0)
            # It has taken the answer's descriptors back before it takes the next request.
            if before is None:
                self.refused(self.ask(body=b""))
                before = held()
        self.refused(self.ask(body=b""))
        self.assertEqual(held(), before)

    def test_it_ends_with_its_keeper_and_its_children_do_not(self) -> None:
        (self.folder / "waiting.py").write_text("import sys; print(len(sys.stdin.readline()))")
        self.start()
        answer = self.ask("python3", "telling.py", text="here")
        self.link.close()
        self.assertEqual(self.zygote.wait(DEADLINE), 0)
        told, code = self.told(answer)
        self.assertEqual((told["stdin"], code), ("here", 0))

    def test_sigterm_ends_it(self) -> None:
        self.start()
        self.zygote.send_signal(signal.SIGTERM)
        self.assertEqual(self.zygote.wait(DEADLINE), 0)

    def test_readiness_and_watchdog_are_told(self) -> None:
        self.start(WATCHDOG_USEC="100000")
        said = [self.notify.recv(4096).decode() for _ in range(3)]
        ready = [text for text in said if "READY=1" in text]
        self.assertEqual(len(ready), 1, said)
        self.assertRegex(ready[0], r"STATUS=\d+ modules in \d+\.\d s, frozen")
        self.assertIn("WATCHDOG=1", said)

    def test_a_function_is_called_once_its_module_is_imported(self) -> None:
        (self.folder / "calling.py").write_text("def load():\n    import preloaded\n    preloaded.hooks.append('called')\n")
        self.start("calling:load")
        told, _ = self.told(self.ask())
        self.assertIn("called", told["hooks"])

    def test_it_says_why_it_cannot_begin(self) -> None:
        (self.folder / "broken.py").write_text("raise AttributeError('no attribute Module')")
        for modules, code, text in (
            (("absent",), 66, "ModuleNotFoundError: No module named 'absent'"),
            (("broken",), 66, "AttributeError: no attribute Module"),
            (("preloaded:absent",), 66, "has no attribute 'absent'"),
        ):
            with self.subTest(modules):
                self.start(*modules, ready=False)
                self.assertEqual(self.zygote.wait(DEADLINE), code)
                self.assertIn(text, self.stderr())
        for number in ("", "x", "99"):
            with self.subTest(number):
                self.start(ready=False, RINGRIFT_ZYGOTE_FD=number)
                self.assertEqual(self.zygote.wait(DEADLINE), 64)
                self.assertIn("RINGRIFT_ZYGOTE_FD", self.stderr())


if __name__ == "__main__":
    unittest.main()
