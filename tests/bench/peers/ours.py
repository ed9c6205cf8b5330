"""ringriftd, and `floor`: a C program that does nothing but posix_spawn and epoll, the physical limit."""
import json
import os

from places import BIN, program

from .base import KEPT, ROTATE, Peer, said, write


class Ringrift(Peer):
    name, most_units, has_chain, settle, delay = "ringriftd", 10000, True, 1.5, 'delay = "0s", no limit of restarts'
    logs = "its own capture of every unit, with times; 16 MiB files, not compressed, as the peers' are not"
    compress = "false"
    note = "keeper, logger and manager; the output of every unit is captured in all rows"

    def is_there(self):
        return all(os.access(program(name), os.X_OK) for name in ("ringriftd", "ringriftctl"))

    def version(self):
        return said(program("ringriftd"), "--version")

    def setup(self, life):
        for folder in ("units", "profiles"):
            os.mkdir(f"{life.folder}/{folder}")
        write(life.folder + "/profiles/bench.toml", 'units = ["*"]\n')
        write(life.folder + "/ringriftd.toml",
              'profiles = ["bench"]\n[http]\nlisten = "off"\n'
              '[defaults.unit.restart]\npolicy = "always"\ndelay = "0s"\nmax_delay = "0s"\njitter = 0.0\nmax_restarts = 10000\n'
              f'[defaults.unit.log]\nmax_size = "{ROTATE >> 20}MiB"\nmax_files = {KEPT}\ncompress = {self.compress}\n')
        for unit in life.units:
            text = f"requires = {json.dumps([unit.after])}\n" if unit.after else ""
            text += f"[exec]\ncommand = {json.dumps(life.argv(unit))}\n"
            write(f"{life.folder}/units/{unit.name}.toml", text + ('kind = "notify"\n' if unit.says_ready else ""))

    def command(self, life):
        return [program("ringriftd")] + self.files(life) + ["--runtime-dir", life.folder + "/run", "--state-dir",
                                                            life.folder + "/state", "--log-dir", life.folder + "/logs"]

    def files(self, life):
        return ["--config", life.folder + "/ringriftd.toml", "--units", life.folder + "/units", "--profiles",
                life.folder + "/profiles"]

    def check(self, life, count, edges):
        for number in range(count):
            others = [f"u{other:05d}" for other in range(max(0, number - edges), number)]
            write(f"{life.folder}/units/u{number:05d}.toml",
                  f'after = {json.dumps(others)}\n[exec]\ncommand = ["/bin/true"]\n')
        return [program("ringriftd"), "check"] + self.files(life)

    def programs(self):
        return [program("ringriftd")]

    def socket(self, life):
        return life.folder + "/run/control.sock"

    def status(self, life):
        return [program("ringriftctl"), "--socket", self.socket(life), "status"]

    def status_one(self, life, name):
        return self.status(life) + [name]

    def round_trips(self, life, rounds):
        return [program("rr-rtt"), self.socket(life), str(rounds)]


class RingriftZstd(Ringrift):
    name, compress = "ringriftd-zstd", "true"
    logs = "the same, older files compressed (its default)"
    note = "only its logs are measured"


class Floor(Peer):
    name, most_units, has_chain, settle, delay = "floor", 10000, True, 0.2, "none"
    logs, rotates = "pipe read() and write() to one file", False
    note = "posix_spawn in a loop and one epoll: no supervisor, but what the kernel allows"
    flags, has_cli = [], False

    def version(self):
        return "this benchmark's"

    def setup(self, life):
        write(life.folder + "/list", "".join("\t".join([unit.name] + life.argv(unit, 3)) + "\n" for unit in life.units))

    def command(self, life):
        chain = ["-c"] if any(unit.after for unit in life.units) else []
        logs = ["-d", life.folder + "/logs"] if any(unit.is_logged for unit in life.units) else []
        return [BIN + "/floor", life.folder + "/list"] + self.flags + chain + logs

    def programs(self):
        return [BIN + "/floor"]


class FloorSplice(Floor):
    name, flags, logs = "floor-splice", ["-s"], "pipe splice() to one file"
    note = "the same, moving log bytes by splice"
