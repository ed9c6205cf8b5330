"""The fleet's files, read as data: what RingRift's registry says of its 78 daemons, and what profiles make of it. The zygote
that they are forked from is a unit of its own, and looked at apart.

`ringriftd check` judges the files' form; this looks at their sense, and needs nothing but Python.
"""

from __future__ import annotations

import re
import unittest
from pathlib import Path

try:
    import tomllib
except ImportError:  # before Python 3.11
    tomllib = None

ROOT = Path(__file__).resolve().parents[2]
CRITICAL = {
    "auto_sync", "daemon_watchdog", "data_pipeline", "event_router", "feedback_loop", "idle_resource",
    "queue_populator",
}
DEPRECATED_ENDS = {
    "cluster_data_sync": "auto_sync",
    "ephemeral_sync": "auto_sync",
    "health_check": "health_server",
    "lambda_idle": None,
    "node_health_monitor": "health_server",
    "npz_distribution": "model_distribution",
    "replication_monitor": None,
    "replication_repair": None,
    "sync_coordinator": "auto_sync",
    "system_health_monitor": "health_server",
    "vast_idle": None,
}
CLOSURES = {  # profile: (listed, with what they require), without the zygote
    "coordinator": (28, 32),
    "training_node": (19, 19),
    "ephemeral": (7, 8),
    "selfplay": (4, 6),
    "minimal": (1, 1),
    "full": (78, 78),
}
CATEGORIES = {
    "sync": 12, "event": 3, "health": 13, "pipeline": 8, "evaluation": 4, "distribution": 4, "replication": 2,
    "resource": 8, "provider": 3, "queue": 2, "feedback": 2, "recovery": 9, "misc": 8,
}


def load(folder: str) -> dict:
    """Every TOML file of a folder, by its stem."""
    return {path.stem: tomllib.loads(path.read_text("utf-8")) for path in sorted((ROOT / folder).glob("*.toml"))}


@unittest.skipIf(tomllib is None, "tomllib came with Python 3.11")
class Fleet(unittest.TestCase):
    @classmethod
    def setUpClass(cls) -> None:
        cls.units = load("units")
        cls.zygote = cls.units.pop("ringrift")
        cls.profiles = load("profiles")
        cls.node = tomllib.loads((ROOT / "ringriftd.toml").read_text("utf-8"))

    def members(self, profile: str) -> list[str]:
        listed = self.profiles[profile]["units"]
        return sorted(self.units) if listed == ["*"] else listed

    def closure(self, names: list[str]) -> set[str]:
        found: set[str] = set()
        queue = list(names)
        while queue:
            name = queue.pop()
            if name not in found:
                found.add(name)
                queue += self.units[name].get("requires", [])
        return found

    def test_there_are_78_units_in_13_categories(self) -> None:
        self.assertEqual(len(self.units), 78)
        counts: dict[str, int] = {}
        for unit in self.units.values():
            counts[unit["category"]] = counts.get(unit["category"], 0) + 1
        self.assertEqual(counts, CATEGORIES)

    def test_seven_are_critical_and_looked_at_most_often(self) -> None:
        self.assertEqual({n for n, u in self.units.items() if u.get("critical")}, CRITICAL)
        for name, unit in self.units.items():
            expected = {"integrity_check": "1h"}.get(name)
            if name in ("sync_push", "unified_data_plane", "npz_combination"):
                expected = "60s"
            self.assertEqual(unit["health"]["interval"], expected or ("15s" if name in CRITICAL else "30s"), name)

    def test_all_but_two_require_the_event_router(self) -> None:
        without = {n for n, u in self.units.items() if "event_router" not in u.get("requires", [])}
        self.assertEqual(without, {"event_router", "health_check"})

    def test_every_named_unit_exists_once(self) -> None:
        for name, unit in self.units.items():
            for key in ("requires", "after"):
                named = unit.get(key, [])
                self.assertEqual(len(named), len(set(named)), f"{name}: {key}")
                for other in named:
                    self.assertIn(other, self.units, f"{name}: {key}")
                    self.assertNotEqual(other, name)
            self.assertFalse(set(unit.get("requires", [])) & set(unit.get("after", [])), name)
        for profile in self.profiles:
            members = self.members(profile)
            self.assertEqual(len(members), len(set(members)), profile)
            self.assertLessEqual(set(members), set(self.units), profile)

    def test_requirements_and_order_together_have_no_cycle(self) -> None:
        before = {n: set(u.get("requires", []) + u.get("after", [])) for n, u in self.units.items()}
        while free := {n for n, earlier in before.items() if not earlier}:
            before = {n: earlier - free for n, earlier in before.items() if n not in free}
        self.assertEqual(before, {})

    def test_start_positions_are_1_to_21(self) -> None:
        positions = [u["startup_position"] for u in self.units.values() if "startup_position" in u]
        self.assertEqual(sorted(positions), list(range(1, 22)))

    def test_profiles_have_their_sizes(self) -> None:
        sizes = {p: (len(self.members(p)), len(self.closure(self.members(p)))) for p in self.profiles}
        self.assertEqual(sizes, CLOSURES)

    def test_replacements_are_units_and_their_chains_end(self) -> None:
        ends: dict[str, object] = {}
        for name, unit in self.units.items():
            if "deprecated" not in unit:
                continue
            seen = [name]
            while (following := self.units[seen[-1]].get("deprecated", {}).get("replaced_by")) is not None:
                self.assertIn(following, self.units)
                self.assertNotIn(following, seen)
                seen.append(following)
            ends[name] = None if "deprecated" in self.units[seen[-1]] else seen[-1]
        self.assertEqual(ends, DEPRECATED_ENDS)

    def test_every_unit_names_the_runner_and_a_function_of_its_own(self) -> None:
        functions = set()
        for name, unit in self.units.items():
            self.assertEqual(unit["exec"]["runner"], "ringrift", name)
            self.assertEqual(unit["exec"]["kind"], "notify", name)
            *switches, function = unit["exec"]["args"]
            self.assertRegex(function, r"^create_[a-z0-9_]+$")
            self.assertEqual(switches, ["--linger"] if name in ("data_pipeline", "job_scheduler") else [], name)
            functions.add(function)
        self.assertEqual(len(functions), 78)
        self.assertIn("ringrift", self.node["runner"])

    def test_what_runs_the_daemons_and_what_runs_their_zygote_get_the_same(self) -> None:
        """A zygote of another interpreter or with other variables would fork none of them."""
        self.assertEqual(self.zygote["exec"]["kind"], "zygote")
        daemons, zygote = (self.node["runner"][name] for name in ("ringrift", self.zygote["exec"]["runner"]))
        self.assertEqual(daemons["zygote"], "ringrift")
        self.assertEqual(daemons["command"][:-1], zygote["command"][:-1])
        for key in ("requires_env", "pass_env"):
            self.assertEqual(daemons[key], zygote[key], key)

    def test_descriptions_are_one_line_each(self) -> None:
        texts = [u["description"] for u in self.units.values()]
        self.assertEqual(len(set(texts)), 78)
        for text in texts:
            self.assertRegex(text, r"^[A-Z].{10,110}[^.]$")

    def test_the_runners_permanent_codes_are_those_that_the_node_never_retries(self) -> None:
        source = (ROOT / "units" / "runner" / "ringrift_runner.py").read_text("utf-8")
        codes = [int(code) for code in re.findall(r"^EXIT_(?:USAGE|RETURNED|IMPORT) = (\d+)$", source, re.M)]
        self.assertEqual(len(codes), 3)
        self.assertEqual(self.node["defaults"]["unit"]["restart"]["permanent_exit_codes"], codes)

    def test_the_table_of_the_documentation_is_that_of_the_files(self) -> None:
        text = (ROOT / "docs" / "ringrift.md").read_text("utf-8")
        rows = re.findall(r"^\| `([a-z0-9_]+)` \| ([a-z]+) \| ([a-z]+) \| ([^|]*) \|", text, re.M)
        expected = []
        for name, unit in self.units.items():
            marks = [w for w in ("critical", "deprecated") if unit.get(w)]
            requires = [r for r in unit.get("requires", []) if r != "event_router"]
            life = " ".join([unit["lifecycle"]] if not marks else marks)
            expected.append((name, unit["category"], life, ", ".join(requires) or "–"))
        self.assertEqual(sorted(rows), sorted(expected))


if __name__ == "__main__":
    unittest.main()
