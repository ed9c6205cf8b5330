"""One supervisor over N copies of the measured child, in a folder of its own: set up, boot, look, end."""
import os
import shutil
import signal
import subprocess
import tempfile
import time

import machine
from places import BIN, BUILD, CHILD

RECORD = 64  # bytes of a child's record: c/child.c


class Unit:
    """A copy of the child. `extra`: more arguments for it; `after`: the unit before it in a chain; `says_ready`: it uses the
    supervisor's readiness protocol; `is_logged`: its output is captured."""

    def __init__(self, name, extra=(), after=None, says_ready=False, is_logged=False):
        self.name, self.extra, self.after = name, list(extra), after
        self.says_ready, self.is_logged = says_ready, is_logged


def units(count):
    """Units that need nothing of each other."""
    return [Unit(f"u{number:05d}") for number in range(count)]


class Life:
    """`folder`: everything of this life, on tmpfs so that no disk is measured (`on_disk`: below BENCH_BUILD instead)."""

    def __init__(self, peer, units, on_disk=False):
        self.peer, self.units, self.process = peer, units, None
        memory = "/dev/shm" if os.path.isdir("/dev/shm") else tempfile.gettempdir()
        self.folder = (BUILD if on_disk else memory) + f"/ringrift-bench.{os.getpid()}"
        shutil.rmtree(self.folder, ignore_errors=True)
        os.makedirs(self.folder + "/logs")
        self.starts = self.folder + "/starts"
        open(self.starts, "w").close()
        peer.setup(self)

    def argv(self, unit, ready_fd=None):
        """The child's command line."""
        ready = ["-n", str(ready_fd)] if ready_fd is not None else []
        return [CHILD, "-N", unit.name, "-t", self.starts] + unit.extra + ready

    def environment(self):
        """What the supervisor and its own command line are given."""
        found = dict(os.environ, **self.peer.environment(self))
        found.pop("NOTIFY_SOCKET", None)
        return found

    def start(self):
        """Executes the supervisor, by way of c/at.c, which writes down when."""
        self.output = open(self.folder + "/output", "ab")
        self.process = subprocess.Popen([BIN + "/at", self.folder + "/executed"] + self.peer.command(self),
                                        stdin=subprocess.DEVNULL, stdout=self.output, stderr=self.output,
                                        env=self.environment(), cwd=self.folder, start_new_session=True)

    def executed(self):
        """When the supervisor was executed, in monotonic ns."""
        with open(self.folder + "/executed") as file:
            return int(file.read())

    def count(self):
        """How many records the children have written."""
        return os.stat(self.starts).st_size // RECORD

    def records(self, skip=0):
        """What the children wrote from the record `skip` on: (S for a start or E for an end, monotonic ns, pid, name)."""
        with open(self.starts) as file:
            file.seek(skip * RECORD)
            words = (line.split() for line in file)
            return [(kind, int(time), int(pid), name) for kind, time, pid, name in words]

    def wait_records(self, count, timeout):
        """False when so many records did not come in time, or the supervisor has failed."""
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            if self.count() >= count:
                return True
            if self.process.poll():
                return False
            time.sleep(0.002)
        return False

    def last_words(self):
        """The last line that the supervisor has said, for the reason of a failure."""
        with open(self.folder + "/output", errors="replace") as file:
            said = file.read().strip().splitlines()
        return f" ({said[-1][:200]})" if said else ""

    def boot(self, timeout=60):
        """ns from the exec of the supervisor to the last child's main(), or None when not all came in time."""
        self.start()
        if not self.wait_records(len(self.units), timeout):
            return None
        return max(record[1] for record in self.records()) - self.executed()

    def processes(self):
        """(pids of the supervisor: every descendant of ours that is not the child's program; pids of the children)"""
        found = machine.descendants()
        return ([pid for pid, program in found.items() if program != CHILD],
                [pid for pid, program in found.items() if program == CHILD])

    def stop(self):
        """Tells the supervisor to stop everything and does not wait for it; the process that tells it, if there is one."""
        how = self.peer.stop(self)
        if isinstance(how, int):
            os.kill(self.peer.main_pid(self), how)
            return None
        return subprocess.Popen(how, env=self.environment(), stdin=subprocess.DEVNULL, stdout=self.output,
                                stderr=self.output)

    def end(self):
        """Ends every process of this life, whatever became of it, and removes its folder (BENCH_KEEP=1 keeps it)."""
        end_descendants()
        if self.process:
            self.process.poll()
        self.peer.cleanup(self)
        if not os.environ.get("BENCH_KEEP"):
            shutil.rmtree(self.folder, ignore_errors=True)


def end_descendants():
    """Kills what is left of our descendants until there is none: a supervisor's restarts may need several rounds."""
    for _ in range(60):
        left = machine.descendants()
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except OSError:
                pass
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            pass
        if not left:
            return
        time.sleep(0.05)
