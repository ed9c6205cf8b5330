"""What the zygote `ringrift` imports, over a checkout of a few files."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[2] / "units" / "runner"

RUNNERS = """
async def create_plain():
    from app.coordination.plain import Plain
    def later():
        import app.coordination.nested
    await Plain().start()

async def create_near():
    from .near import Near
    from . import beside

async def create_broken():
    import app.coordination.broken

async def create_absent():
    import app.coordination.absent

def get_all_runners():
    return {"PLAIN": create_plain, "NEAR": create_near, "BROKEN": create_broken, "ABSENT": create_absent}
"""

SHOW = """
import os, sys, ringrift_preload
ringrift_preload.load()
print(os.getcwd(), *sorted(name for name in sys.modules if name.startswith("app.coordination.")), sep="\\n")
"""


class PreloadTest(unittest.TestCase):
    def load(self, home: str) -> subprocess.CompletedProcess[str]:
        env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(FOLDER), "RINGRIFT_HOME": home}
        return subprocess.run([sys.executable, "-c", SHOW], env=env, capture_output=True, text=True, check=False)

    def test_what_runner_functions_import_is_imported_beforehand(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            service = Path(os.path.realpath(folder)) / "ai-service"
            package = service / "app" / "coordination"
            package.mkdir(parents=True)
            files = {"plain": "class Plain: pass", "near": "class Near: pass", "nested": "", "beside": "",
                     "broken": "raise TypeError('not\\nhere')", "work_queue": "", "untouched": "",
                     "daemon_runners": RUNNERS}
            for name, text in files.items():
                (package / f"{name}.py").write_text(text)
            done = self.load(folder)
            self.assertEqual(done.returncode, 0, done.stderr)
            place, *names = done.stdout.split()
            self.assertEqual(place, str(service))
            self.assertEqual([name.rpartition(".")[2] for name in names],
                             ["daemon_runners", "near", "nested", "plain", "work_queue"])
            # The units that need these fail with the same words; what only later trees have is no news.
            self.assertEqual(done.stderr.splitlines(), [
                "ringrift_preload: app.coordination.broken is left out: TypeError: not here",
                "ringrift_preload: app.coordination.absent is left out: "
                "ModuleNotFoundError: No module named 'app.coordination.absent'",
            ])

    def test_without_a_checkout_it_says_so(self) -> None:
        for home in ("", "/dev/null"):
            done = self.load(home)
            self.assertEqual(done.returncode, 1)
            self.assertIn(f"ImportError: RINGRIFT_HOME={home!r} is no RingRift checkout", done.stderr)


if __name__ == "__main__":
    unittest.main()
