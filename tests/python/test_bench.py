"""The sums and tables of tests/bench, which a benchmark is worth nothing without."""
import os
import sys
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "bench"))

import figures  # noqa: E402
import plan  # noqa: E402
import report  # noqa: E402
from peers import PEERS  # noqa: E402


def line(supervisor, metric, units, median, **more):
    return dict(supervisor=supervisor, metric=metric, units=units, n=3, median=median, p99=median * 2, version="1", **more)


class Figures(unittest.TestCase):
    def test_percentiles_are_values_that_were_measured(self):
        values = [5, 1, 4, 2, 3]
        self.assertEqual([figures.percentile(values, percent) for percent in (0, 50, 99, 100)], [1, 3, 5, 5])
        self.assertEqual(figures.percentile([7], 99), 7)

    def test_a_summary_says_the_median_and_how_far_the_quartiles_are_from_it(self):
        found = figures.summary([10, 8, 12, 9, 11])
        self.assertEqual((found["n"], found["median"], found["min"], found["max"]), (5, 10, 8, 12))
        self.assertEqual(found["spread"], 0.1)
        self.assertEqual(figures.summary([]), {"n": 0})
        self.assertNotIn("spread", figures.summary([1, 2]))

    def test_above_one_is_better_whichever_way_is_good(self):
        self.assertEqual(figures.ratio(10, 20, small_is_good=True), 2)
        self.assertEqual(figures.ratio(10, 20, small_is_good=False), 0.5)
        self.assertIsNone(figures.ratio(None, 20, small_is_good=True))
        self.assertIsNone(figures.ratio(10, None, small_is_good=False))
        self.assertIsNone(figures.ratio(0, 0, small_is_good=True))
        self.assertIsNone(figures.ratio(0, 5, small_is_good=True))

    def test_the_newest_word_counts_whether_figure_or_reason(self):
        old, new = line("a", "boot", 78, 1), line("a", "boot", 78, 2)
        why = dict(supervisor="a", metric="boot", units=78, why="it fell")
        key = ("a", "boot", 78)
        self.assertEqual(figures.newest([old, new])[0][key]["median"], 2)
        self.assertEqual(figures.newest([old, why]), ({}, {key: "it fell"}))
        self.assertEqual(figures.newest([why, new]), ({key: new}, {}))

    def test_figures_have_three_digits(self):
        said = [figures.digits(value) for value in (1234.5, 12.34, 1.234, 0.1234, 0, None)]
        self.assertEqual(said, ["1234", "12.3", "1.23", "0.123", "0.000", "–"])


class Report(unittest.TestCase):
    def render(self, *lines):
        return report.render(list(lines), "today", "a machine")

    def row(self, text, words):
        """The cells of the first row with these words."""
        return next([cell.strip() for cell in row.split("|")[1:-1]] for row in text.splitlines()
                    if row.startswith(f"| {words} |"))

    def test_the_best_of_the_others_is_neither_ours_nor_the_floor(self):
        text = self.render(line("ringriftd", "boot", 78, 10.0), line("floor", "boot", 78, 5.0), line("dinit", "boot", 78, 20.0),
                           line("runit", "boot", 78, 15.0))
        self.assertEqual(self.row(text, "boot 78, ms"),
                         ["boot 78, ms", "10.0", "runit 15.0", "1.50", "20.0", "2.00", "5.00", "2.00"])

    def test_a_log_that_nobody_copies_is_no_rival(self):
        text = self.render(line("ringriftd", "logs_one", 1, 500.0), line("dinit", "logs_one", 1, 3000.0),
                           line("s6", "logs_one", 1, 250.0))
        self.assertEqual(self.row(text, "log of one writer, MB/s")[1:6], ["500", "s6 250", "2.00", "–", "–"])

    def test_what_a_further_unit_costs(self):
        text = self.render(line("ringriftd", "pss", 78, 1000.0), line("ringriftd", "pss", 1000, 2844.0),
                           line("ringriftd", "boot", 1000, 100.0))
        self.assertIn("A further unit costs 2.00 KiB", text)
        self.assertIn("100 µs at 1000", text)

    def test_a_wide_spread_and_a_missing_figure_are_said(self):
        text = self.render(line("dinit", "boot", 78, 20.0, spread=0.3, noise=0.5),
                           dict(supervisor="s6", metric="boot", units=78, why="it fell", version="2"))
        self.assertIn("20.0 ±30 %", text)
        self.assertIn("- s6 boot 78: it fell", text)
        self.assertIn("highest 0.50 (dinit boot 78)", text)

    def test_only_the_generated_part_of_the_document_is_replaced(self):
        before = f"by hand\n{report.BEGIN}\nold\n{report.END}\nalso by hand\n"
        self.assertEqual(report.put_into(before, "new\n"), f"by hand\n{report.BEGIN}\nnew\n{report.END}\nalso by hand\n")

    def test_the_document_has_a_place_for_it(self):
        with open(report.DOCUMENT) as file:
            document = file.read()
        self.assertEqual((document.count(report.BEGIN), document.count(report.END)), (1, 1))


class Plan(unittest.TestCase):
    def test_every_measured_row_is_planned(self):
        planned = {(measure, units) for measure, units, _, _ in plan.FULL}
        by_measure = dict(boot_cpu="boot", chain_hop="chain", restart_rapid="restart", pss="held", status="held",
                          status_one="held", round_trip="held", round_trip_one_cpu="held", idle_cpu="held", idle_wakeups="held", check_peak="check")
        for words, metric, units, _, _ in report.ROWS:
            measure = by_measure.get(metric, metric.split("_cpu_s")[0].removesuffix("_lost"))
            self.assertTrue({(measure, units), (measure, 100)} & planned, words)

    def test_variants_are_asked_for_logs_only(self):
        self.assertTrue(plan.takes(PEERS["floor-splice"](), "logs_one", 1))
        self.assertFalse(plan.takes(PEERS["floor-splice"](), "boot", 78))
        self.assertFalse(plan.takes(PEERS["runit"](), "boot", 10000))

    def test_only_who_checks_files_is_asked_to(self):
        self.assertTrue(plan.takes(PEERS["ringriftd"](), "check", 10000))
        self.assertFalse(plan.takes(PEERS["dinit"](), "check", 10000))

    def test_only_one_program_is_started_cold(self):
        self.assertTrue(plan.takes(PEERS["ringriftd"](), "boot_cold", 78))
        self.assertFalse(plan.takes(PEERS["circus"](), "boot_cold", 78))


if __name__ == "__main__":
    unittest.main()
