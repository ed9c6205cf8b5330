"""What the zygote is asked for, and how a fork of it becomes that: the half of ringrift_zygote.py that runs in the child.
docs/zygotes.md tells the protocol.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import gc
import importlib
import importlib.util
import os
import signal
import socket
import stat
import sys
import time
import types
from typing import Any, Optional

EXIT_FAILED = 1
REASON_MAX = 512

PR_SET_NAME = 15
PR_SET_NO_NEW_PRIVS = 38

# By these, another keeper finds a process again, and a manager that has lost its state its unit: they come first where room
# may be short.
MARKS = (b"RINGRIFT_INVOCATION_ID=", b"RINGRIFT_ROLE=", b"RINGRIFT_UNIT=")

# Read by the interpreter at its start, and done in the child.
APPLIED = (b"PYTHONPATH", b"PYTHONUNBUFFERED", b"PYTHONDONTWRITEBYTECODE")
# Read by the interpreter, the C library or the loader at their start: what they made of it cannot be changed.
FIXED_PREFIXES = (b"PYTHON", b"LD_", b"LC_", b"MALLOC_")
FIXED = (b"LANG", b"GLIBC_TUNABLES")

libc = ctypes.CDLL(None, use_errno=True)


class Refusal(Exception):
    """The request cannot be met; the text says why."""


def clean_reason(error: BaseException) -> str:
    """`TypeError: what it said`, in one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def open_descriptors() -> list[int]:
    """The numbers of all open descriptors; not that by which they are listed."""

    def is_open(number: int) -> bool:
        try:
            os.fstat(number)
        except OSError:
            return False
        return True

    return sorted(filter(is_open, map(int, os.listdir("/proc/self/fd"))))


# --- what is asked ---------------------------------------------------------------------------------------------


class Request:
    """What the body of a request says: fields `name=value`, each ended by a NUL."""

    def __init__(self, body: bytes) -> None:
        self.program = b""
        self.argv: list[bytes] = []
        self.env: list[bytes] = []
        self.dir = b""
        self.umask = -1
        self.no_new_privs = False
        self.targets: list[int] = []
        self.pid_env: list[bytes] = []
        if body and not body.endswith(b"\0"):
            raise Refusal("the request is cut off")
        for field in body.split(b"\0")[:-1]:
            name, equals, value = field.partition(b"=")
            if not equals:
                raise Refusal(f"a field of the request has no value: {field[:64]!r}")
            self._take(name, value)
        if not self.program.startswith(b"/") or not self.argv or not self.dir.startswith(b"/") or self.umask < 0:
            raise Refusal("the request lacks program, argv, dir or umask")
        if len(set(self.targets)) != len(self.targets):
            raise Refusal("the request names a descriptor twice")
        self.command = Command(self.program, self.argv)
        refuse_environment(self.env)

    def _take(self, name: bytes, value: bytes) -> None:
        if name == b"program":
            self.program = value
        elif name == b"argv":
            self.argv.append(value)
        elif name == b"env":
            if b"=" not in value[1:]:
                raise Refusal(f"a variable has no name: {value[:64]!r}")
            self.env.append(value)
        elif name == b"dir":
            self.dir = value
        elif name == b"umask":
            self.umask = number(value, 8, 0o777)
        elif name == b"no_new_privs":
            self.no_new_privs = number(value, 10, 1) == 1
        elif name == b"fd":
            target = number(value, 10, 65_535)
            if target < 3:
                raise Refusal("a further descriptor would take the place of a standard stream")
            self.targets.append(target)
        elif name == b"pid_env":
            self.pid_env.append(value)
        else:
            # Whatever it asks for would silently not be done.
            raise Refusal(f"the request has a field that is not known here: {name[:64]!r}")


def number(value: bytes, base: int, most: int) -> int:
    """A field's number."""
    try:
        result = int(value, base)
    except ValueError:
        result = -1
    if not 0 <= result <= most:
        raise Refusal(f"the request has a number that is none, or too large: {value[:64]!r}")
    return result


class Command:
    """A Python command line: `python [-u] [-B] (SCRIPT | -m MODULE) [ARGUMENT]...`."""

    _scripts: dict[str, tuple[tuple[int, int, int], types.CodeType]] = {}

    def __init__(self, program: bytes, argv: list[bytes]) -> None:
        if not is_own_interpreter(os.fsdecode(program)):
            raise Refusal(f"{os.fsdecode(program)} is not {sys.executable}, which runs this zygote")
        self.is_unbuffered = False
        self.writes_bytecode = True
        words = [os.fsdecode(word) for word in argv[1:]]
        while words and words[0] in ("-u", "-B"):
            flag = words.pop(0)
            self.is_unbuffered |= flag == "-u"
            self.writes_bytecode &= flag != "-B"
        self.module: Optional[str] = None
        if words and words[0] == "-m" and len(words) > 1:
            self.module = words[1]
            words = words[1:]
        elif not words or words[0].startswith("-"):
            shown = words[0] if words else "no script"
            raise Refusal(f"only `python [-u] [-B] (SCRIPT | -m MODULE)` can be forked, not {shown}")
        self.words = words
        self._place = words[0]

    def warm(self, folder: bytes) -> None:
        """Compiles a script before the fork, and once for all who run it. Whatever is wrong with it, its own process says."""
        if self.module is None:
            # As the kernel finds it: `..` behind a link is not the folder before it.
            self._place = os.path.join(os.fsdecode(folder), self.words[0])
            # The compiler also raises RecursionError, MemoryError and OverflowError.
            with contextlib.suppress(Exception):
                # To open a fifo is to wait for who writes.
                if stat.S_ISREG(os.stat(self._place).st_mode):
                    self._code(self._place)

    def _code(self, path: str) -> types.CodeType:
        about = os.stat(path)
        is_now = (about.st_mtime_ns, about.st_size, about.st_ino)
        was, code = self._scripts.get(path, (None, None))
        if code is None or was != is_now:
            with open(path, "rb") as file:
                # What is reported as the file's name is what the command line says.
                code = compile(file.read(), self.words[0], "exec", dont_inherit=True)
            self._scripts[path] = (is_now, code)
        return code

    def run(self) -> None:
        """In the child, as `python` itself would: as the module `__main__`."""
        sys.argv[:] = list(self.words)
        if hasattr(sys, "orig_argv"):
            sys.orig_argv[:] = [sys.executable, *self.words]
        is_safe_path = getattr(sys.flags, "safe_path", False)  # PYTHONSAFEPATH, the same for both
        main = types.ModuleType("__main__")
        main.__dict__["__builtins__"] = __builtins__
        if self.module is None:
            path = self.words[0]
            if not is_safe_path:
                sys.path[0] = os.path.dirname(os.path.realpath(path))
            code = self._code(self._place)
            main.__dict__.update(__file__=path, __cached__=None)
        else:
            if not is_safe_path:
                sys.path[0] = os.getcwd()
            name = self.module
            spec = importlib.util.find_spec(name)
            if spec is not None and spec.submodule_search_locations is not None:
                name += ".__main__"
                spec = importlib.util.find_spec(name)
            get_code = getattr(spec and spec.loader, "get_code", None)
            found = get_code(name) if get_code is not None else None
            if spec is None or found is None:
                sys.exit(f"{sys.executable}: No module named {name}")
            code = found
            main.__dict__.update(
                __file__=spec.origin, __cached__=spec.cached, __spec__=spec, __loader__=spec.loader,
                __package__=spec.parent,
            )
            sys.argv[0] = spec.origin or name
        sys.modules["__main__"] = main
        exec(code, main.__dict__)


def is_own_interpreter(program: str) -> bool:
    """`program` is what runs this. By its folder too: a virtual environment is known by it."""
    try:
        return os.path.samefile(program, sys.executable) and os.path.samefile(
            os.path.dirname(program), os.path.dirname(sys.executable)
        )
    except OSError:
        return False


def refuse_environment(env: list[bytes]) -> None:
    """Raises `Refusal` when a variable differs that was read when this process began."""
    asked = dict(entry.split(b"=", 1) for entry in env)
    for name in sorted({*asked, *BIRTH_ENVIRONMENT}):
        if name in APPLIED or not (name in FIXED or name.startswith(FIXED_PREFIXES)):
            continue
        if asked.get(name) != BIRTH_ENVIRONMENT.get(name):
            raise Refusal(f"{os.fsdecode(name)} differs from the zygote's, and cannot be changed after its start")


def birth_environment() -> dict[bytes, bytes]:
    """The environment that this process was executed with. What the interpreter itself added (LC_CTYPE, PEP 538) is not in
    it."""
    with open("/proc/self/environ", "rb") as file:
        return dict(entry.split(b"=", 1) for entry in file.read().split(b"\0") if b"=" in entry)


BIRTH_ENVIRONMENT = birth_environment()
COERCED = {name: os.environb[name] for name in (b"LC_CTYPE",) if name in os.environb and name not in BIRTH_ENVIRONMENT}


# --- the child -------------------------------------------------------------------------------------------------


def check(result: int, what: str) -> None:
    """Raises `OSError` for a failed call of the C library."""
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{what}: {os.strerror(error)}")


def reset_signals() -> None:
    """As a fresh interpreter has them: nothing blocked, all default but three."""
    signal.set_wakeup_fd(-1)
    for each in signal.valid_signals():
        if each in (signal.SIGKILL, signal.SIGSTOP):
            continue
        handler: Any = signal.SIG_DFL
        if each == signal.SIGINT:
            handler = signal.default_int_handler
        elif each in (signal.SIGPIPE, getattr(signal, "SIGXFSZ", None)):
            handler = signal.SIG_IGN
        # The C library keeps two for itself.
        with contextlib.suppress(OSError, ValueError):
            signal.signal(each, handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])


def arrange_descriptors(passed: list[int], targets: list[int], gate: int) -> int:
    """Puts `passed` in the places `targets`; the gate's new number. What was open at import is not closed but becomes
    /dev/null: an object that still knows the number would close somebody else's descriptor one day."""
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    # Above all targets, since one's target may be another's source, and above what this process had open.
    open_now = open_descriptors()
    high = max([*targets, *open_now]) + 1
    moved = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, high) for fd in [*passed, gate]]
    own = {*passed, gate}
    for fd in open_now:
        if fd in own:
            os.close(fd)
        elif fd != null and fd not in targets:
            os.dup2(null, fd, inheritable=False)
    os.close(null)
    for source, target in zip(moved, targets):
        os.dup2(source, target, inheritable=True)
        os.close(source)
    return moved[-1]


def replace_environment(entries: list[bytes]) -> None:
    """This process's environment, for Python and for C. What C code has from getenv(3) is in memory that is about to be
    written over: clearenv(3) first, so that nobody finds it there."""
    os.environb.clear()
    check(libc.clearenv(), "clearenv")
    os.environb.update(COERCED)
    os.environb.update(entry.split(b"=", 1) for entry in entries)


def fitting(texts: list[bytes], room: int) -> bytes:
    """`texts`, each ended by a NUL, as many as fit whole into `room` bytes; filled up with NULs."""
    data = b""
    for text in texts:
        if len(data) + len(text) + 1 <= room:
            data += text + b"\0"
    return data.ljust(room, b"\0")


def write_areas(argv: list[bytes], entries: list[bytes]) -> None:
    """What /proc/PID/cmdline and /proc/PID/environ show. The kernel reads them where execve(2) wrote them; both are
    written over in place, which needs no privilege. The marks by which another keeper finds the process come first: they
    fit, since the zygote has marks of much the same length, and more that the unit has not."""
    with open("/proc/self/stat", "rb") as file:
        fields = file.read().rpartition(b")")[2].split()
    # proc_pid_stat(5): 48 to 51.
    arg_start, arg_end, env_start, env_end = (int(field) for field in fields[45:49])
    if not 0 < arg_start < arg_end <= env_start < env_end:
        raise OSError(0, "the kernel does not tell where arguments and environment are")
    # All arguments as far as they fit, cut where they do not: ps(1) shows this.
    room = arg_end - arg_start
    shown = b"".join(word + b"\0" for word in argv)[: room - 1].ljust(room, b"\0")
    ctypes.memmove(arg_start, shown, room)
    marks = [entry for entry in entries if entry.startswith(MARKS)]
    others = [entry for entry in entries if not entry.startswith(MARKS)]
    room = env_end - env_start
    if len(fitting(marks, room).rstrip(b"\0")) < len(b"\0".join(marks)):
        raise OSError(0, "the zygote's own environment is too small for the marks of a unit")
    ctypes.memmove(env_start, fitting(marks + others, room), room)


def refresh_modules(command: Command, env: dict[bytes, bytes]) -> None:
    """What modules keep that two processes must not share. Whoever asked for os.register_at_fork was called already."""
    if env.get(b"PYTHONDONTWRITEBYTECODE") or not command.writes_bytecode:
        sys.dont_write_bytecode = True
    if env.get(b"PYTHONUNBUFFERED") or command.is_unbuffered:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.reconfigure(write_through=True)  # type: ignore[union-attr]
    asked = [os.fsdecode(part) for part in env.get(b"PYTHONPATH", b"").split(b":") if part]
    sys.path[1:1] = [part for part in asked if part not in sys.path]
    time.tzset()
    if "random" in sys.modules:
        sys.modules["random"].seed()
    if "numpy.random" in sys.modules:
        sys.modules["numpy.random"].seed()
    if "logging" in sys.modules:
        refresh_logging(sys.modules["logging"])
    if "asyncio.events" in sys.modules:
        refresh_asyncio(sys.modules["asyncio.events"])
    if "multiprocessing.process" in sys.modules:
        sys.modules["multiprocessing.process"].current_process().authkey = os.urandom(32)


def refresh_logging(logging: Any) -> None:
    """Handlers open their files and sockets anew, at their next record; logging itself renews the locks."""
    for reference in list(getattr(logging, "_handlerList", [])):
        handler = reference()
        if handler is None:
            continue
        if isinstance(handler, logging.FileHandler):
            handler.stream = None
        elif hasattr(handler, "sock"):  # SocketHandler, DatagramHandler
            handler.sock = None
        elif hasattr(handler, "socket") and hasattr(handler, "createSocket"):  # SysLogHandler
            with contextlib.suppress(OSError):
                handler.createSocket()


def refresh_asyncio(events: Any) -> None:
    """No loop, neither running nor set; a policy that was installed stays one of its kind."""
    events._set_running_loop(None)
    policy = getattr(events, "_event_loop_policy", None)
    if policy is not None:
        fresh = None
        with contextlib.suppress(Exception):
            fresh = type(policy)()
        events._event_loop_policy = fresh


class Gate:
    """Where a child says that it is there and waits until it is let through; and where a request is refused."""

    def __init__(self, fd: int) -> None:
        self._socket = socket.socket(fileno=fd)

    def refuse(self, reason: str) -> None:
        """Whoever asked may have stopped listening."""
        data = reason.encode("utf-8", "replace")[:REASON_MAX]
        with contextlib.suppress(OSError):
            self._socket.send(b"REFUSED " + data.decode("utf-8", "ignore").encode())

    def pass_through(self) -> bool:
        """Says that this process is there (the kernel adds which that is), and waits. True: it may run."""
        try:
            self._socket.send(b"HERE")
            said = self._socket.recv(64)
        except OSError:
            return False
        finally:
            self._socket.close()
        return said == b"GO %d" % os.getpid()


def become(request: Request, passed: list[int], gate_fd: int, orphaned: int) -> None:
    """The child's way from fork(2) to what it was asked to run. Returns when it may."""
    gate_number = gate_fd
    try:
        # Ends when the process between has been reaped: from then on the keeper is the parent.
        os.read(orphaned, 1)
        os.close(orphaned)
        os.setsid()
        reset_signals()
        gate_number = arrange_descriptors(passed, [0, 1, 2, *request.targets], gate_fd)
        os.umask(request.umask)
        if request.no_new_privs:
            check(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
        os.chdir(request.dir)
        own = b"%d" % os.getpid()
        entries = request.env + [name + b"=" + own for name in request.pid_env]
        replace_environment(entries)
        write_areas(request.argv, entries)
        env = dict(entry.split(b"=", 1) for entry in entries)
        check(libc.prctl(PR_SET_NAME, env.get(b"RINGRIFT_UNIT", b"python3")[:15], 0, 0, 0), "name")
        refresh_modules(request.command, env)
        gc.enable()
    except BaseException as error:  # whatever it is, this process is not what was asked for
        try:
            Gate(gate_number).refuse(clean_reason(error))
        finally:
            os._exit(EXIT_FAILED)
    if not Gate(gate_number).pass_through():
        os._exit(0)
