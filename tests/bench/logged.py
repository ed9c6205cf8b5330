"""What logging is measured by: how fast lines come into files, what that costs, and whether any is lost."""
import glob
import os
import shutil
import subprocess
import time

import machine
from life import Life, Unit
from measures import Missing, say

# The child ends its lines with one that says so: c/child.c.
LAST = b" LAST\n"
LINE = 100


def one(peer, count, options):
    """One child writes `bytes` (1 GiB) of 100-byte lines as fast as it can."""
    lines = int(options.get("bytes", 1 << 30)) // LINE
    several(peer, "logs_one", [Unit("w", ["-l", str(lines)], is_logged=True)], lines, options)


def many(peer, count, options):
    """`count` children write 10 000 lines a second each, for 5 s."""
    wanted = [Unit(f"w{number:03d}", ["-l", "50000", "-R", "10000"], is_logged=True) for number in range(count)]
    several(peer, "logs_many", wanted, count * 50000, options)


def several(peer, metric, wanted, lines, options):
    if not peer.logs:
        raise Missing("has no log that could be measured")
    runs = [run(peer, wanted, lines, float(options.get("timeout", 60))) for _ in range(int(options.get("repeats", 1)))]
    noise = max(run["noise"] for run in runs)
    for name, unit in (("speed", "MB/s"), ("cpu_s_per_gb", "s/GB"), ("lost", "lines")):
        values = [run[name] for run in runs if run[name] is not None]
        say(peer, metric if name == "speed" else f"{metric}_{name}", unit, len(wanted), values, noise=noise)


def touch_memory(size, folder):
    """Writes and removes a file in tmpfs: the first touch of a page by a virtual machine may cost more than all copying."""
    chunk = b"x" * (1 << 20)
    path = folder + "/warm"
    with open(path, "wb") as file:
        for _ in range((size >> 20) + 64):
            file.write(chunk)
    os.unlink(path)


def run(peer, wanted, lines, timeout):
    """MB/s of text from the first child's main() to the last line's arrival in a file, with what it cost."""
    life = Life(peer, wanted)
    try:
        touch_memory(lines * LINE * 3 // 2, life.folder)
        noise = machine.wait_quiet()
        life.start()
        if not life.wait_records(len(wanted), 30):
            raise Missing("did not boot" + life.last_words())
        began = min(record[1] for record in life.records())
        ended = wait_last(life, [unit.name for unit in wanted], timeout)
        own = life.processes()[0]
        cpu = settled_cost(own)
        found = count_lines(life)
        gigabytes = lines * LINE / 1e9
        return dict(speed=lines * LINE / 1e6 / ((ended - began) / 1e9), cpu_s_per_gb=cpu / 1e9 / gigabytes,
                    lost=None if found is None else lines + len(wanted) - found, noise=noise)
    finally:
        life.end()


def wait_last(life, names, timeout):
    """When every unit's last line was in a file, in monotonic ns, to 5 ms."""
    left, end = set(names), time.monotonic() + timeout
    while left:
        if time.monotonic() > end:
            raise Missing(f"the last line of {len(left)} children was not in a file after {timeout:.0f} s")
        time.sleep(0.005)
        left = {name for name in left if not has_last(life, name)}
    return machine.now()


def has_last(life, name):
    """Whether the newest file of a unit ends with its last line; a name of its own, or a folder's `current`."""
    paths = glob.glob(f"{life.folder}/logs/{name}.log") + glob.glob(f"{life.folder}/logs/{name}/current")
    for path in paths:
        try:
            with open(path, "rb") as file:
                file.seek(-min(512, os.fstat(file.fileno()).st_size), os.SEEK_END)
                if file.read().endswith(LAST):
                    return True
        except OSError:
            continue
    return False


def settled_cost(pids):
    """The CPU of these processes when what they still had to do (compression) is done, or 30 s later."""
    cost, end = machine.cost(pids)[0], time.monotonic() + 30
    while time.monotonic() < end:
        time.sleep(0.5)
        before, cost = cost, machine.cost(pids)[0]
        if cost - before < 5_000_000:
            break
    return cost


def count_lines(life):
    """How many of the children's lines are in all files; None when some are compressed and there is no `zstd`."""
    found, packed = 0, []
    for folder, _, names in os.walk(life.folder + "/logs"):
        for name in names:
            path = os.path.join(folder, name)
            if name.endswith(".zst"):
                packed.append(path)
            elif name not in ("lock", "state", "config", "processed", "previous", "newstate"):
                with open(path, "rb") as file:
                    while chunk := file.read(1 << 20):
                        found += chunk.count(b"\n")
    if packed and not shutil.which("zstd"):
        return None
    for path in packed:
        unpack = subprocess.Popen(["zstd", "-dcq", path], stdout=subprocess.PIPE)
        while chunk := unpack.stdout.read(1 << 20):
            found += chunk.count(b"\n")
        unpack.wait()
    return found
