"""What the whole benchmark measures, in order: the figures that decide most come first."""
import os
import subprocess
import sys
import time

import machine
from places import HERE
from peers import PEERS
from peers.base import Peer

FULL = [
    # (measure, units, options, seconds that it may take)
    ("boot", 78, [], 120),
    ("boot_cold", 78, [], 120),
    ("chain", 100, [], 90),
    ("restart", 78, [], 90),
    ("held", 78, [], 150),
    ("stop", 78, [], 120),
    ("boot", 1000, ["timeout=45"], 150),
    ("held", 1000, ["parts=memory,control"], 150),
    ("stop", 1000, [], 240),
    ("logs_one", 1, ["repeats=3"], 260),
    ("logs_many", 78, [], 150),
    ("check", 10000, [], 120),
    ("boot", 10000, [], 200),
]
QUICK = [
    ("boot", 78, ["repeats=5"], 60),
    ("boot_cold", 78, ["repeats=3"], 60),
    ("chain", 100, ["repeats=2"], 60),
    ("restart", 78, ["seconds=8"], 60),
    ("held", 78, ["idle=5", "runs=40"], 60),
    ("stop", 78, ["repeats=3"], 90),
    ("boot", 1000, ["repeats=2", "timeout=30"], 100),
    ("held", 1000, ["parts=memory,control", "runs=30"], 100),
    ("stop", 1000, ["repeats=2"], 150),
    ("logs_one", 1, [f"bytes={1 << 28}"], 90),
    ("check", 10000, ["repeats=3"], 120),
    ("boot", 10000, ["repeats=1"], 100),
]
# So small that it costs seconds: it shows that everything still works together, and measures nothing.
TINY = [
    ("boot", 5, ["repeats=1"], 60),
    ("chain", 5, ["repeats=1"], 60),
    ("restart", 5, ["kills=2"], 60),
    ("held", 5, ["idle=0.1", "runs=5"], 60),
    ("stop", 5, ["repeats=1"], 60),
    ("logs_one", 1, ["bytes=1000000"], 60),
    ("check", 5, ["repeats=1"], 60),
]
PLANS = dict(full=FULL, quick=QUICK, tiny=TINY)
LOGS_ONLY = ("ringriftd-zstd", "floor-splice")


def takes(peer, measure, units):
    """Whether this measure says anything of this supervisor."""
    if measure == "check" and type(peer).check is Peer.check:
        return False
    if measure == "boot_cold" and not peer.programs():
        return False
    return units <= peer.most_units and (peer.name not in LOGS_ONLY or measure.startswith("logs"))


def measured(peer, measure, units, options, limit):
    """The lines that a measure prints, run as a process of its own so that nothing of it lasts; one that took too long, or
    broke, becomes the reason why there is no figure."""
    began = time.monotonic()
    process = subprocess.Popen([sys.executable, os.path.join(HERE, "measure"), measure, peer.name, str(units)] + options,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        out, err = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        err += f"took more than {limit} s"
    found = out.splitlines()
    state = "ok"
    if process.returncode:
        state = "FAILED: " + (err.strip().splitlines() or ["?"])[-1]
    print(f"{peer.name:14} {measure:10} {units:6}  {time.monotonic() - began:5.1f} s  {state}", file=sys.stderr, flush=True)
    return found, state


def supervisors(names):
    """The supervisors of these names that are on this machine."""
    found = [PEERS[name]() for name in names]
    return [peer for peer in found if peer.is_there()]


def prepare():
    """Whatever a measure leaves behind when it is ended comes to us."""
    machine.own_orphans()
