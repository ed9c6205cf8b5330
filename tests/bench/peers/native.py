"""Supervisors of the C and C++ world."""
import os
import shlex
import shutil
import subprocess

from places import BIN, BUILD

from .base import KEPT, ROTATE, Peer, find, package, said, write


class S6(Peer):
    name, most_units, delay = "s6", 10000, "1 s since the last start, built in"
    logs = f"s6-log n{KEPT} s{ROTATE}, a process for each log"
    note = "an s6-supervise process for each unit; its status of all is one s6-svstat process for each unit"

    def is_there(self):
        return bool(shutil.which("s6-svscan"))

    def version(self):
        return "s6 " + package("s6")

    def setup(self, life):
        self.scan = life.folder + "/scan"
        os.mkdir(self.scan)
        for unit in life.units:
            self.service(life, unit, f"{self.scan}/{unit.name}")

    def service(self, life, unit, folder):
        os.mkdir(folder)
        argv = life.argv(unit, 3 if unit.says_ready else None)
        write(folder + "/run", f"#!/usr/bin/execlineb -P\n{shlex.join(argv)}\n", 0o755)
        if unit.says_ready:
            write(folder + "/notification-fd", "3\n")
        if unit.is_logged:
            os.mkdir(folder + "/log")
            log = f"{life.folder}/logs/{unit.name}"
            os.mkdir(log)
            write(folder + "/log/run", f"#!/usr/bin/execlineb -P\ns6-log n{KEPT} s{ROTATE} {log}\n", 0o755)

    def command(self, life):
        return ["s6-svscan", "-c", "30000", self.scan]

    def status(self, life):
        return ["/bin/sh", "-c", f"for d in {self.scan}/*; do s6-svstat $d || exit 1; done"]

    def status_one(self, life, name):
        return ["s6-svstat", f"{self.scan}/{name}"]


class S6rc(S6):
    name, most_units, has_chain, logs = "s6-rc", 990, True, None
    note = "over s6; its database is compiled before the clock starts"

    def is_there(self):
        return super().is_there() and bool(find("s6-rc", "s6rc/bin/s6-rc"))

    def version(self):
        return "on " + super().version()

    def environment(self, life):
        return {"PATH": f"{BUILD}/s6rc/bin:{os.environ['PATH']}", "LD_LIBRARY_PATH": BUILD + "/s6rc/lib"}

    def setup(self, life):
        source = life.folder + "/source"
        os.makedirs(source + "/all/contents.d")
        write(source + "/all/type", "bundle\n")
        for unit in life.units:
            folder = f"{source}/{unit.name}"
            self.service(life, unit, folder)
            write(folder + "/type", "longrun\n")
            write(f"{source}/all/contents.d/{unit.name}", "")
            if unit.after:
                os.mkdir(folder + "/dependencies.d")
                write(f"{folder}/dependencies.d/{unit.after}", "")
        subprocess.run(["s6-rc-compile", life.folder + "/db", source], check=True,
                       env=dict(os.environ, **self.environment(life)))
        self.scan = life.folder + "/scan"
        os.mkdir(self.scan)
        os.mkfifo(life.folder + "/fifo")
        write(life.folder + "/go", f"#!/bin/sh\ncd {life.folder}\n"
              "( read x <fifo; s6-rc-init -c $PWD/db -l $PWD/live $PWD/scan && exec s6-rc -l $PWD/live -u change all ) &\n"
              "exec s6-svscan -c 30000 -d 3 $PWD/scan 3>fifo\n", 0o755)

    def command(self, life):
        return ["/bin/sh", life.folder + "/go"]

    def status(self, life):
        return ["s6-rc", "-l", life.folder + "/live", "-a", "list"]

    def stop(self, life):
        return ["s6-rc", "-l", life.folder + "/live", "-bd", "change", "all"]


class Runit(Peer):
    name, delay = "runit", "1 s since the last start, built in"
    logs = f"svlogd s{ROTATE} n{KEPT}, a process for each log"
    note = "a runsv process for each unit; runsvdir has a built-in limit of 1000"

    def is_there(self):
        return bool(shutil.which("runsvdir"))

    def version(self):
        return "runit " + package("runit")

    def setup(self, life):
        self.scan = life.folder + "/scan"
        os.mkdir(self.scan)
        for unit in life.units:
            folder = f"{self.scan}/{unit.name}"
            os.mkdir(folder)
            write(folder + "/run", f"#!/bin/sh\nexec {shlex.join(life.argv(unit))}\n", 0o755)
            if unit.is_logged:
                log = f"{life.folder}/logs/{unit.name}"
                os.mkdir(folder + "/log")
                os.mkdir(log)
                write(log + "/config", f"s{ROTATE}\nn{KEPT}\n")
                write(folder + "/log/run", f"#!/bin/sh\nexec svlogd {log}\n", 0o755)

    def command(self, life):
        return ["runsvdir", "-P", self.scan]

    def status(self, life):
        return ["sv", "status"] + [f"{self.scan}/{unit.name}" for unit in life.units]

    def status_one(self, life, name):
        return ["sv", "status", f"{self.scan}/{name}"]

    def stop(self, life):
        return 1  # SIGHUP: ends, and stops its services


class Dinit(Peer):
    name, most_units, has_chain, settle, delay = "dinit", 10000, True, 0.7, "restart-delay = 0, no limit of restarts"
    logs, rotates = "logfile =: the child writes into the file itself; no pipe, no rotation", False

    def daemon(self):
        return find("dinit", "dinit/dinit")

    def is_there(self):
        return bool(self.daemon()) and bool(find("dinitctl", "dinit/dinitctl"))

    def version(self):
        return said(self.daemon(), "--version").split("\n")[0]

    def setup(self, life):
        folder = life.folder + "/services"
        os.mkdir(folder)
        for unit in life.units:
            text = ("type = process\nrestart = true\nrestart-delay = 0\nrestart-limit-count = 0\nrestart-limit-interval = 0\n"
                    f"command = {shlex.join(life.argv(unit, 3 if unit.says_ready else None))}\n")
            text += "ready-notification = pipefd:3\n" if unit.says_ready else ""
            text += f"depends-on = {unit.after}\n" if unit.after else ""
            text += f"logfile = {life.folder}/logs/{unit.name}.log\n" if unit.is_logged else ""
            write(f"{folder}/{unit.name}", text)
        write(folder + "/boot", "type = internal\n" + "".join(f"waits-for = {unit.name}\n" for unit in life.units))

    def command(self, life):
        return [self.daemon(), "-u", "-q", "-l", "/dev/null", "-d", life.folder + "/services", "-p", life.folder + "/socket",
                "boot"]

    def programs(self):
        return [self.daemon()]

    def status(self, life):
        return [find("dinitctl", "dinit/dinitctl"), "-p", life.folder + "/socket", "list"]

    def status_one(self, life, name):
        return self.status(life)[:-1] + ["status", name]

    def round_trips(self, life, rounds):
        # The protocol's version: one byte asks, five answer.
        return [BIN + "/pingpong", "-c", life.folder + "/socket", "00", "5", str(rounds)]


class Systemd(Peer):
    name, has_chain, settle, delay = "systemd", True, 1, "RestartSec=0, no start limit"
    logs, rotates = "StandardOutput=append: the child writes into the file itself; no rotation (journald is not run)", False
    note = "a --user instance in a mount namespace of its own; a cgroup for each unit"
    ROOTS = ["/sys/fs/cgroup/systemd", "/sys/fs/cgroup/unified", "/sys/fs/cgroup"]

    def is_there(self):
        return os.path.exists("/lib/systemd/systemd") and os.getuid() == 0 and bool(shutil.which("unshare"))

    def version(self):
        return said("/lib/systemd/systemd", "--version").split("\n")[0]

    def environment(self, life):
        return {"XDG_RUNTIME_DIR": life.folder + "/run", "DBUS_SESSION_BUS_ADDRESS": "",
                "SYSTEMD_UNIT_PATH": life.folder + "/services:/usr/lib/systemd/user"}

    def cgroups(self):
        return [root for root in self.ROOTS if os.path.exists(root + "/cgroup.procs")]

    def setup(self, life):
        self.group = f"ringrift-bench-{os.getpid()}"
        os.mkdir(life.folder + "/run", 0o700)
        folder = life.folder + "/services"
        os.mkdir(folder)
        for unit in life.units:
            after = f"Requires={unit.after}.service\nAfter={unit.after}.service\n" if unit.after else ""
            output = f"append:{life.folder}/logs/{unit.name}.log" if unit.is_logged else "null"
            write(f"{folder}/{unit.name}.service",
                  "[Unit]\nDefaultDependencies=no\nConflicts=shutdown.target\nBefore=shutdown.target\nStartLimitIntervalSec=0\n"
                  f"{after}[Service]\nType={'notify' if unit.says_ready else 'exec'}\nExecStart={shlex.join(life.argv(unit))}\n"
                  f"Restart=always\nRestartSec=0\nStandardOutput={output}\nStandardError=null\n")
        write(folder + "/bench.target", "[Unit]\nDefaultDependencies=no\n"
              + "".join(f"Wants={unit.name}.service\n" for unit in life.units))
        joins = "".join(f"mkdir -p {root}/{self.group} && echo $$ > {root}/{self.group}/cgroup.procs\n"
                        for root in self.cgroups())
        write(life.folder + "/go", f"#!/bin/sh\n{joins}exec unshare -m --propagation private sh -c 'mount -t tmpfs tmpfs /run && "
              "mkdir -p /run/systemd/system && exec /lib/systemd/systemd --user --unit=bench.target --log-target=console "
              "--log-level=err'\n", 0o755)

    def command(self, life):
        return ["/bin/sh", life.folder + "/go"]

    def status(self, life):
        return ["systemctl", "--user", "--no-pager", "--no-legend", "list-units", "--type=service", "--all", "--plain"]

    def status_one(self, life, name):
        return ["systemctl", "--user", "is-active", name + ".service"]

    def cleanup(self, life):
        for root in self.cgroups():
            for folder, _, _ in os.walk(f"{root}/{self.group}", topdown=False):
                try:
                    os.rmdir(folder)
                except OSError:
                    pass
