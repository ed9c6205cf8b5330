"""What is measured of one supervisor. Each measure prints its figures as lines of JSON: supervisor, metric, unit, units
and what `figures.summary` keeps; or, in place of a figure, `why` there is none."""
import json
import os
import signal
import subprocess
import time

import figures
import machine
from life import Life, Unit, units
from places import BIN


class Missing(Exception):
    """Why a figure cannot be had."""


def say(peer, metric, unit, count, values, **more):
    """Prints a figure."""
    print(json.dumps(dict(supervisor=peer.name, metric=metric, unit=unit, units=count, **figures.summary(values), **more)),
          flush=True)


def say_why(peer, metric, count, why):
    """Prints the reason why there is no figure."""
    print(json.dumps(dict(supervisor=peer.name, metric=metric, units=count, why=str(why))), flush=True)


def booted(peer, wanted, timeout, **how):
    """A life whose units are all up, with the ns that it took; the caller ends it."""
    life = Life(peer, wanted, **how)
    try:
        took = life.boot(timeout)
        if took is None:
            raise Missing(f"only {len(life.records())} of {len(wanted)} children in {timeout:.0f} s{life.last_words()}")
        return life, took
    except BaseException:
        life.end()
        raise


def boot(peer, count, options, is_cold=False):
    """ms from the exec of the supervisor to the last of `count` independent children's main().
    Cold: files on a disk, and the contents of the supervisor's programs and files dropped from memory before."""
    metric = "boot_cold" if is_cold else "boot"
    repeats = int(options.get("repeats", 7 if count <= 100 else 5 if count <= 1000 else 3))
    timeout = float(options.get("timeout", 60))
    took, cpu, noise = [], [], []
    for _ in range(repeats):
        noise.append(machine.wait_quiet())
        life = Life(peer, units(count), on_disk=is_cold)
        try:
            if is_cold:
                forget(life)
            ns = life.boot(timeout)
            if ns is None:
                raise Missing(f"only {len(life.records())} of {count} children in {timeout:.0f} s{life.last_words()}")
            took.append(ns / 1e6)
            cpu.append(machine.cost(life.processes()[0])[0] / 1e6)
        finally:
            life.end()
        if sum(took) > 60000:
            break
    say(peer, metric, "ms", count, took, noise=max(noise))
    say(peer, metric + "_cpu", "ms", count, cpu, noise=max(noise))


def forget(life):
    """Drops the contents of the supervisor's programs and of the life's files from the page cache."""
    os.sync()
    paths = [os.path.join(folder, name) for folder, _, names in os.walk(life.folder) for name in names]
    for path in paths + [os.path.realpath(program) for program in life.peer.programs()]:
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        except OSError:
            continue
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)


def boot_cold(peer, count, options):
    """See `boot`. Only for those that are one program."""
    boot(peer, count, options, is_cold=True)


def chain(peer, count, options):
    """Each unit requires that the one before it is ready: ms between neighbours' main()."""
    if not peer.has_chain:
        raise Missing("has no dependencies that wait for readiness")
    hops, whole, noise = [], [], []
    for _ in range(int(options.get("repeats", 5))):
        noise.append(machine.wait_quiet())
        wanted = [Unit(f"c{number:04d}", after=f"c{number - 1:04d}" if number else None, says_ready=True)
                  for number in range(count)]
        life, _ = booted(peer, wanted, 60)
        try:
            starts = sorted(life.records(), key=lambda record: record[1])
        finally:
            life.end()
        if [record[3] for record in starts] != [unit.name for unit in wanted]:
            raise Missing("the units did not start in order")
        times = [record[1] / 1e6 for record in starts]
        hops += [after - before for before, after in zip(times, times[1:])]
        whole.append((times[-1] - times[0]) / (count - 1))
    say(peer, "chain_hop", "ms", count, whole, noise=max(noise), hop_p50=round(figures.percentile(hops, 50), 3),
        hop_p99=round(figures.percentile(hops, 99), 3))


def restart(peer, count, options):
    """ms from before SIGKILL of a child to its replacement's main(). Steady: children in turn, each up for more than 1.3 s,
    longer than any built-in pause. Rapid: the same child, killed again as soon as it is back."""
    noise = machine.wait_quiet()
    life, _ = booted(peer, units(count), 60)
    try:
        time.sleep(peer.settle + 0.5)
        pids = {name: pid for _, _, pid, name in life.records()}
        names, last, took = sorted(pids), {}, []
        end = time.monotonic() + float(options.get("seconds", 20))
        while len(took) < int(options.get("kills", 200)) and time.monotonic() < end:
            name = names[len(took) % count]
            time.sleep(max(0.003, last.get(name, 0) + 1.3 - time.monotonic()))
            ms, pids[name] = kill(life, name, pids[name])
            last[name] = time.monotonic()
            took.append(ms)
        say(peer, "restart", "ms", count, took, noise=noise)
        took, name = [], names[-1]
        time.sleep(1.3)
        end = time.monotonic() + 15
        while len(took) < 20 and time.monotonic() < end:
            ms, pids[name] = kill(life, name, pids[name])
            took.append(ms)
            time.sleep(0.003)
        say(peer, "restart_rapid", "ms", count, took, noise=noise)
    finally:
        life.end()


def kill(life, name, pid):
    """Kills a child; (ms until its replacement's main(), the replacement's pid)."""
    seen, killed = life.count(), machine.now()
    os.kill(pid, signal.SIGKILL)
    end = time.monotonic() + 30
    while time.monotonic() < end:
        if life.count() > seen:
            for _, started, new, who in life.records(seen):
                if who == name:
                    return (started - killed) / 1e6, new
        time.sleep(0.0005)
    raise Missing(f"{name} was not back 30 s after it was killed")


def held(peer, count, options):
    """What one running supervisor costs and answers, in one life: memory, idle cost, its own status."""
    parts = options.get("parts", "memory,idle,control").split(",")
    noise = machine.wait_quiet()
    life, _ = booted(peer, units(count), 90)
    try:
        time.sleep(peer.settle + (4 if count > 1000 else 1))
        own, children = life.processes()
        if "memory" in parts:
            say(peer, "pss", "KiB", count, [machine.pss_kib(own)], processes=len(own), children=len(children))
        if "idle" in parts:
            idle(peer, count, own, float(options.get("idle", 30)))
        if "control" in parts and peer.has_cli:
            control(peer, life, count, int(options.get("runs", 100)), noise)
    finally:
        life.end()


def idle(peer, count, own, seconds):
    """CPU and wake-ups of a supervisor that nothing happens to."""
    before, began = machine.cost(own), time.monotonic()
    time.sleep(seconds)
    took, after = time.monotonic() - began, machine.cost(own)
    say(peer, "idle_cpu", "ms in 30 s", count, [(after[0] - before[0]) / 1e6 * 30 / took])
    say(peer, "idle_wakeups", "in 30 s", count, [(after[1] - before[1]) * 30 / took])


def control(peer, life, count, runs, noise):
    """Its own command line as a whole process, and the smallest round trip on an open connection."""
    for metric, argv in (("status", peer.status(life)), ("status_one", peer.status_one(life, "u00003"))):
        try:
            if not argv:
                raise Missing("has none that works")
            first, _ = timed(argv, 2, life)
            took, client_cpu = timed(argv, max(5, min(runs, int(12000 / max(max(first), 0.01)))), life)
            say(peer, metric, "ms", count, took, client_cpu_ms=client_cpu, noise=noise)
        except Missing as why:
            say_why(peer, metric, count, why)
    argv = peer.round_trips(life, 3000)
    if argv:
        round_trips(peer, "round_trip", count, argv, noise)
        machine.pin(life.processes()[0], 0)
        round_trips(peer, "round_trip_one_cpu", count, ["taskset", "-c", "0"] + argv, noise)


def round_trips(peer, metric, count, argv, noise):
    """What a program that prints ns a line has measured; the first ones are for warming up."""
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    took = [int(line) / 1e3 for line in done.stdout.split()][200:]
    if took:
        say(peer, metric, "µs", count, took, noise=noise)
    else:
        say_why(peer, metric, count, done.stderr.strip() or "no answer")


def timed(argv, runs, life):
    """ms of each of so many runs of a command, and the mean of their CPU in ms. c/runlat.c runs them."""
    done = subprocess.run([BIN + "/runlat", str(runs)] + argv, env=life.environment(), capture_output=True, text=True,
                          timeout=600, check=False)
    *lines, last = done.stdout.split("\n")[:-1] or [""]
    if not last.startswith("cpu"):
        raise Missing(done.stderr.strip() or f"cannot run {argv[0]}")
    _, cpu, _, failed = last.split()
    if int(failed) == len(lines):
        raise Missing(f"{os.path.basename(argv[0])} fails")
    return [int(line) / 1e6 for line in lines], round(int(cpu) / 1e6 / len(lines), 3)


def stop(peer, count, options):
    """ms from the signal (or the exec of the command) that stops the supervisor until its last child has ended."""
    took, noise = [], []
    for _ in range(int(options.get("repeats", 5 if count <= 100 else 3))):
        noise.append(machine.wait_quiet())
        life, _ = booted(peer, units(count), 90)
        try:
            time.sleep(peer.settle + (3 if count > 1000 else 0))
            ends = machine.Ends(life.processes()[1])
            told = machine.now()
            teller = life.stop()
            ended = ends.wait(60)
            if ended is None:
                raise Missing(f"{len(life.processes()[1])} children left after 60 s")
            took.append((ended - told) / 1e6)
            if teller:
                teller.wait(60)
        finally:
            life.end()
        if sum(took) > 25000:
            break
    say(peer, "stop", "ms", count, took, noise=max(noise))


def check(peer, count, options):
    """ms and peak memory of the supervisor's check of `count` units' files, ten edges each."""
    noise = machine.wait_quiet()
    life = Life(peer, [])
    try:
        argv = peer.check(life, count, 10)
        if not argv:
            raise Missing("has no such check")
        took, peak = [], []
        for _ in range(int(options.get("repeats", 5))):
            began = machine.now()
            process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            _, status, used = os.wait4(process.pid, 0)
            took.append((machine.now() - began) / 1e6)
            peak.append(used.ru_maxrss)
            process.returncode = status
            if status:
                raise Missing("finds fault with them")
        say(peer, "check", "ms", count, took, noise=noise)
        say(peer, "check_peak", "KiB", count, peak, noise=noise)
    finally:
        life.end()


def baseline(peer, count, options):
    """What the machine takes with no supervisor at all; only for `floor`."""
    noise = machine.wait_quiet()
    for metric, argv in (("spawn_static", [BIN + "/child", "-x", "0"]), ("spawn_dynamic", ["/bin/true"])):
        done = subprocess.run([BIN + "/runlat", "300"] + argv, capture_output=True, text=True, check=True, timeout=60)
        say(peer, metric, "ms", count, [int(line) / 1e6 for line in done.stdout.split("\n") if line.isdigit()], noise=noise)
    for metric, pin in (("round_trip", []), ("round_trip_one_cpu", ["taskset", "-c", "0"])):
        round_trips(peer, metric, count, pin + [BIN + "/pingpong", "64", "5000"], noise)
