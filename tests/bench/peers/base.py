"""What the benchmark has to know of a supervisor."""
import os
import shutil
import signal
import subprocess

from places import BUILD

# Log files are rotated at this size, and so many are kept that no byte is rotated away.
ROTATE = 16 << 20
KEPT = 200


def said(*argv):
    """What a command prints."""
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=20, check=False)
        return (done.stdout + done.stderr).strip()
    except OSError as why:
        return str(why)


def package(name):
    """A Debian package's version."""
    return said("dpkg-query", "-W", "-f", "${Version}", name)


def write(path, text, mode=0o644):
    with open(path, "w") as file:
        file.write(text)
    os.chmod(path, mode)


def find(program, built):
    """A program on PATH, else where `setup` has put it below BENCH_BUILD, else None."""
    place = os.path.join(BUILD, built)
    return shutil.which(program) or (place if os.access(place, os.X_OK) else None)


class Peer:
    """A supervisor. `life` is always the `life.Life` that it is to serve."""
    name = "?"
    most_units = 1000     # it is not asked for more
    settle = 1.5          # seconds after boot until it has nothing left to do
    has_cli = True        # it answers questions
    has_chain = False     # it knows dependencies that wait for readiness
    logs = None           # how it captures logs, in words; None: it has none that can be measured
    rotates = True        # it copies what it captures and rotates it (else the child writes into a file, or nothing is rotated)
    delay = ""            # the pause before a restart, as configured here or built in
    note = ""

    def is_there(self):
        return True

    def version(self):
        return "?"

    def environment(self, life):
        return {}

    def setup(self, life):
        """Writes its files; not measured."""

    def command(self, life):
        """The command line whose exec begins the boot."""
        raise NotImplementedError

    def programs(self):
        """Its own programs, whose pages are dropped before a cold boot."""
        return []

    def status(self, life):
        """The command line of its own status of all units, None: it has none that works."""
        return None

    def status_one(self, life, name):
        return None

    def stop(self, life):
        """A signal for `main_pid`, or a command line."""
        return signal.SIGTERM

    def main_pid(self, life):
        return life.process.pid

    def round_trips(self, life, rounds):
        """A command line that asks the smallest question `rounds` times over one connection and prints ns a line; or None."""
        return None

    def check(self, life, count, edges):
        """Writes so many units, each ordered after `edges` others, and tells the command line that checks the files; or None."""
        return None

    def cleanup(self, life):
        """Removes what lies outside of the life's folder."""
