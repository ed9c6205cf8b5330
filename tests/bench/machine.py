"""What is asked of the kernel: who else is busy, what processes cost, and when they end."""
import ctypes
import os
import select
import time

now = time.monotonic_ns
PR_SET_CHILD_SUBREAPER = 36


def own_orphans():
    """Orphans come to us from now on, so that whatever a supervisor leaves behind is found (and ended) as a descendant."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def take_share():
    """Moves us, and so all that we start, into a cpu cgroup with a large share, where there is cgroup v1: others on the
    machine disturb less then. False where that cannot be had, or BENCH_SHIELD=0."""
    root = "/sys/fs/cgroup/cpu"
    if os.environ.get("BENCH_SHIELD") == "0" or not os.path.exists(root + "/cpu.shares"):
        return False
    try:
        os.makedirs(root + "/ringrift-bench", exist_ok=True)
        with open(root + "/ringrift-bench/cpu.shares", "w") as shares:
            shares.write("200000")
        with open(root + "/ringrift-bench/cgroup.procs", "w") as members:
            members.write(str(os.getpid()))
        return True
    except OSError:
        return False


def busy(seconds=0.25):
    """The fraction of all processors that is busy while we do nothing."""
    def read():
        with open("/proc/stat") as stat:
            ticks = [int(word) for word in stat.readline().split()[1:9]]
        return sum(ticks), ticks[3] + ticks[4]
    before = read()
    time.sleep(seconds)
    after = read()
    return round(1 - (after[1] - before[1]) / max(1, after[0] - before[0]), 3)


def wait_quiet():
    """Waits until others use less than BENCH_QUIET (0.15) of the processors, at most BENCH_QUIET_WAIT (20) seconds.
    Returns what they use at the end: the noise of the measurement that follows."""
    limit = float(os.environ.get("BENCH_QUIET", "0.15"))
    end = time.monotonic() + float(os.environ.get("BENCH_QUIET_WAIT", "20"))
    while True:
        noise = busy()
        if noise <= limit or time.monotonic() > end:
            return noise
        time.sleep(0.5)


def descendants():
    """The pids of all living descendants of ours, with the program that each runs ("" when it cannot be told)."""
    children = {}
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{entry}/stat") as stat:
                state, parent = stat.read().rsplit(")", 1)[1].split()[:2]
        except OSError:
            continue
        if state != "Z":
            children.setdefault(int(parent), []).append(int(entry))
    found, todo = {}, [os.getpid()]
    while todo:
        for pid in children.get(todo.pop(), ()):
            todo.append(pid)
            try:
                found[pid] = os.readlink(f"/proc/{pid}/exe")
            except OSError:
                found[pid] = ""
    return found


def pss_kib(pids):
    """The proportional set size of these processes together. Kernel memory (about 20 KiB a process) is not in it."""
    total = 0
    for pid in pids:
        try:
            with open(f"/proc/{pid}/smaps_rollup") as maps:
                total += sum(int(line.split()[1]) for line in maps if line.startswith("Pss:"))
        except OSError:
            pass
    return total


def cost(pids):
    """Nanoseconds of CPU and voluntary context switches, of all threads of these processes."""
    cpu = switches = 0
    for pid in pids:
        try:
            for thread in os.listdir(f"/proc/{pid}/task"):
                with open(f"/proc/{pid}/task/{thread}/schedstat") as stat:
                    cpu += int(stat.read().split()[0])
                with open(f"/proc/{pid}/task/{thread}/status") as status:
                    switches += sum(int(line.split()[1]) for line in status if line.startswith("voluntary_ctxt_switches"))
        except OSError:
            pass
    return cpu, switches


def pin(pids, cpu):
    """Keeps all threads of these processes on one CPU."""
    for pid in pids:
        try:
            for thread in os.listdir(f"/proc/{pid}/task"):
                os.sched_setaffinity(int(thread), {cpu})
        except OSError:
            pass


class Ends:
    """Waits for the ends of processes by their pidfds, opened beforehand so that waiting costs nothing to set up."""

    def __init__(self, pids):
        self.poll, self.fds = select.epoll(), []
        for pid in pids:
            try:
                fd = os.pidfd_open(pid)
            except OSError:
                continue
            self.fds.append(fd)
            self.poll.register(fd, select.EPOLLIN)

    def wait(self, timeout):
        """When the last of them ended (monotonic ns), or None when that took more than `timeout` seconds."""
        left, last, end = len(self.fds), now(), time.monotonic() + timeout
        while left and time.monotonic() < end:
            for fd, _ in self.poll.poll(0.5, 4096):
                self.poll.unregister(fd)
                left -= 1
            last = now()
        for fd in self.fds:
            os.close(fd)
        self.poll.close()
        return None if left else last
