"""Supervisors in Rust, Python and JavaScript."""
import json
import os
import shlex
import shutil

from places import BUILD, CHILD

from .base import KEPT, ROTATE, Peer, find, said, write


class Supervisord(Peer):
    name, settle, delay = "supervisord", 2, "startsecs = 0, its lowest"
    logs = "stdout_logfile, 16 MiB files"
    note = "Python; a loop with a tick of 1 s starts units and reaps them"

    def is_there(self):
        return os.path.exists("/usr/bin/supervisord")

    def version(self):
        return "supervisor " + said("/usr/bin/supervisord", "--version")

    def setup(self, life):
        text = (f"[unix_http_server]\nfile={life.folder}/socket\n[supervisord]\nnodaemon=true\nminfds=16000\nloglevel=error\n"
                f"logfile=/dev/null\nlogfile_maxbytes=0\npidfile={life.folder}/pid\nchildlogdir={life.folder}\n"
                "[rpcinterface:supervisor]\nsupervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface\n"
                f"[supervisorctl]\nserverurl=unix://{life.folder}/socket\n")
        for unit in life.units:
            log = (f"{life.folder}/logs/{unit.name}.log\nstdout_logfile_maxbytes={ROTATE}\nstdout_logfile_backups={KEPT}"
                   if unit.is_logged else "NONE")
            text += (f"[program:{unit.name}]\ncommand={shlex.join(life.argv(unit))}\nautorestart=true\nstartsecs=0\n"
                     f"startretries=1000000\nredirect_stderr=true\nstdout_logfile={log}\n")
        write(life.folder + "/conf", text)

    def command(self, life):
        return ["/usr/bin/supervisord", "-c", life.folder + "/conf"]

    def status(self, life):
        return ["/usr/bin/supervisorctl", "-c", life.folder + "/conf", "status"]

    def status_one(self, life, name):
        return self.status(life) + [name]


class Horust(Peer):
    name, settle, delay = "horust", 2, 'backoff = "0s"'
    logs = "stdout file with stdout-rotate-size, 16 MiB"
    note = "Rust; `horustctl status` of all units panics, so none is measured"

    def is_there(self):
        return bool(find("horust", "horust/bin/horust"))

    def version(self):
        return said(find("horust", "horust/bin/horust"), "--version")

    def environment(self, life):
        return {"HORUST_LOG": "off"}

    def setup(self, life):
        for folder in ("services", "uds"):
            os.mkdir(f"{life.folder}/{folder}")
        for unit in life.units:
            text = f"command = {json.dumps(shlex.join(life.argv(unit)))}\n"
            if unit.is_logged:
                text += f'stdout = "{life.folder}/logs/{unit.name}.log"\nstdout-rotate-size = "16 MiB"\n'
            write(f"{life.folder}/services/{unit.name}.toml",
                  text + '[restart]\nstrategy = "always"\nbackoff = "0s"\nattempts = 1000000\n')

    def command(self, life):
        return [find("horust", "horust/bin/horust"), "--config-path", life.folder + "/none.toml", "--services-path",
                life.folder + "/services", "--uds-folder-path", life.folder + "/uds"]

    def status_one(self, life, name):
        return [find("horustctl", "horust/bin/horustctl"), "-u", life.folder + "/uds", "-p", str(life.process.pid), "status",
                name + ".toml"]


class Zinit(Peer):
    name, settle, delay = "zinit", 2, "restart_delay_ms = 1, its lowest"
    note = "Rust; runs every unit under `sh -c`; keeps output in memory only, so no log is measured"

    def is_there(self):
        return bool(find("zinit-server", "zinit/bin/zinit-server"))

    def version(self):
        return said(find("zinit-server", "zinit/bin/zinit-server"), "--version")

    def environment(self, life):
        return {"HOME": life.folder, "ZINIT_CONFIG_DIR": life.folder + "/services", "ZINIT_LOG_LEVEL": "error"}

    def setup(self, life):
        # Its command line ignores --socket and asks below $HOME.
        os.makedirs(life.folder + "/hero/var")
        os.mkdir(life.folder + "/services")
        for unit in life.units:
            write(f"{life.folder}/services/{unit.name}.toml",
                  f'[service]\nname = "{unit.name}"\nexec = {json.dumps(shlex.join(life.argv(unit)))}\n'
                  '[lifecycle]\nrestart = "always"\nrestart_delay_ms = 1\nrestart_delay_max_ms = 1\nmax_restarts = 0\n')

    def command(self, life):
        return [find("zinit-server", "zinit/bin/zinit-server"), "--config-dir", life.folder + "/services", "--socket",
                life.folder + "/hero/var/zinit.sock", "--log-level", "error"]

    def status(self, life):
        return [find("zinit", "zinit/bin/zinit"), "list"]

    def status_one(self, life, name):
        return [find("zinit", "zinit/bin/zinit"), "status", name]

    def stop(self, life):
        return [find("zinit", "zinit/bin/zinit"), "shutdown"]


class Pm2(Peer):
    name, settle, delay = "pm2", 2, "restart_delay = 0"
    logs, rotates = "out_file; it rotates by a module of its own only, so not here", False
    note = "JavaScript; the daemon is started by `pm2 start`"
    PACKAGE = BUILD + "/pm2/node_modules/pm2"

    def is_there(self):
        return os.path.exists(self.PACKAGE + "/bin/pm2") and bool(shutil.which("node"))

    def version(self):
        with open(self.PACKAGE + "/package.json") as file:
            return json.load(file)["version"] + " on node " + said("node", "--version")

    def environment(self, life):
        return {"PM2_HOME": life.folder + "/pm2", "PM2_DISCRETE_MODE": "1", "PM2_DISABLE_VERSION_CHECK": "1"}

    def setup(self, life):
        os.mkdir(life.folder + "/pm2")
        apps = [dict(name=unit.name, script=CHILD, args=life.argv(unit)[1:], interpreter="none", exec_mode="fork",
                     autorestart=True, restart_delay=0, max_restarts=1000000000, min_uptime=0, error_file="/dev/null",
                     out_file=f"{life.folder}/logs/{unit.name}.log" if unit.is_logged else "/dev/null", merge_logs=True,
                     vizion=False, pmx=False, watch=False) for unit in life.units]
        write(life.folder + "/apps.json", json.dumps(dict(apps=apps)))

    def pm2(self, *words):
        return ["node", self.PACKAGE + "/bin/pm2", "--no-color"] + list(words)

    def command(self, life):
        return self.pm2("start", life.folder + "/apps.json")

    def main_pid(self, life):
        with open(life.folder + "/pm2/pm2.pid") as file:
            return int(file.read())

    def status(self, life):
        return self.pm2("ls")

    def status_one(self, life, name):
        return self.pm2("describe", name)

    def stop(self, life):
        return self.pm2("kill")


class Circus(Peer):
    name, settle, delay = "circus", 2, "check_delay = 0.1 (its default is 5; it polls)"
    logs = "stdout_stream FileStream, 16 MiB files"
    note = "Python"
    BIN = BUILD + "/circus/bin"

    def is_there(self):
        return os.path.exists(self.BIN + "/circusd")

    def version(self):
        return "circus " + said(self.BIN + "/circusd", "--version")

    def setup(self, life):
        text = (f"[circus]\nendpoint = ipc://{life.folder}/ep\npubsub_endpoint = ipc://{life.folder}/ps\nstatsd = False\n"
                "check_delay = 0.1\nwarmup_delay = 0\nloglevel = ERROR\n")
        for unit in life.units:
            argv = life.argv(unit)
            text += (f"[watcher:{unit.name}]\ncmd = {argv[0]}\nargs = {shlex.join(argv[1:])}\nnumprocesses = 1\n"
                     "warmup_delay = 0\nmax_retry = -1\ncopy_env = True\n")
            if unit.is_logged:
                text += ("stdout_stream.class = FileStream\n"
                         f"stdout_stream.filename = {life.folder}/logs/{unit.name}.log\n"
                         f"stdout_stream.max_bytes = {ROTATE}\nstdout_stream.backup_count = {KEPT}\n")
        write(life.folder + "/circus.ini", text)

    def command(self, life):
        return [self.BIN + "/circusd", life.folder + "/circus.ini"]

    def status(self, life):
        return [self.BIN + "/circusctl", "--endpoint", f"ipc://{life.folder}/ep", "--timeout", "60", "status"]

    def status_one(self, life, name):
        return self.status(life) + [name]
