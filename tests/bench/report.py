"""Figures to the tables of docs/performance.md."""
import json
import os
import platform
import time

import figures
from peers import PEERS
from places import CHECKOUT

DOCUMENT = os.path.join(CHECKOUT, "docs", "performance.md")
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"

# (words, metric, units, which figure of it, whether a small one is good)
ROWS = [
    ("boot 78, ms", "boot", 78, "median", True),
    ("boot 78, the fastest, ms", "boot", 78, "min", True),
    ("boot 78, cold, ms", "boot_cold", 78, "median", True),
    ("boot 1 000, ms", "boot", 1000, "median", True),
    ("boot 1 000, the fastest, ms", "boot", 1000, "min", True),
    ("boot 10 000, ms", "boot", 10000, "median", True),
    ("CPU of boot 78, ms", "boot_cpu", 78, "median", True),
    ("CPU of boot 1 000, ms", "boot_cpu", 1000, "median", True),
    ("chain of 100, ms a hop", "chain_hop", 100, "median", True),
    ("restart, ms p50", "restart", 78, "median", True),
    ("restart, ms p99", "restart", 78, "p99", True),
    ("restart at once again, ms p50", "restart_rapid", 78, "median", True),
    ("status of all 78, ms", "status", 78, "median", True),
    ("status of all 1 000, ms", "status", 1000, "median", True),
    ("status of one of 78, ms", "status_one", 78, "median", True),
    ("smallest round trip, µs", "round_trip", 78, "median", True),
    ("the same, all on one CPU, µs", "round_trip_one_cpu", 78, "median", True),
    ("stop 78, ms", "stop", 78, "median", True),
    ("stop 1 000, ms", "stop", 1000, "median", True),
    ("PSS at 78, KiB", "pss", 78, "median", True),
    ("PSS at 1 000, KiB", "pss", 1000, "median", True),
    ("idle CPU at 78, ms in 30 s", "idle_cpu", 78, "median", True),
    ("idle wake-ups at 78, in 30 s", "idle_wakeups", 78, "median", True),
    ("check of 10 000 units, 100 000 edges, ms", "check", 10000, "median", True),
    ("the same, peak memory, KiB", "check_peak", 10000, "median", True),
    ("log of one writer, MB/s", "logs_one", 1, "median", False),
    ("log of one writer, CPU s a GB", "logs_one_cpu_s_per_gb", 1, "median", True),
    ("logs of 78 writers, MB/s (78 are asked)", "logs_many", 78, "median", False),
    ("logs of 78 writers, CPU s a GB", "logs_many_cpu_s_per_gb", 78, "median", True),
    ("log lines lost", "logs_one_lost", 1, "max", True),
]
BASELINE = [
    ("start, run and end of a static program, ms", "spawn_static", "median"),
    ("the same of a glibc program, ms", "spawn_dynamic", "median"),
]
OURS = "ringriftd"
# Not competitors: what the kernel allows, and variants of one that is there already.
UNRANKED = ("floor", "floor-splice", "ringriftd-zstd", OURS)


def table_of(path):
    """The whole generated part, from a file of figures."""
    with open(path) as file:
        lines = [json.loads(line) for line in file if line.strip()]
    return render(lines, time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()), f"{platform.machine()}, {os.cpu_count()} cores, "
                  f"Linux {platform.release().split('-')[0]}")


def render(lines, when, where):
    """The generated part as Markdown."""
    found, reasons = figures.newest(lines)
    names = [name for name in PEERS if any(key[0] == name for key in found)]
    text = [f"Measured {when} on {where}. Every value is a median unless the row says otherwise; ± is half the distance between "
            "the quartiles, where it is more than a tenth of the value.", ""]
    text += comparison(found, names)
    text += values(found, names)
    text += machine_rows(found)
    text += versions(lines, names)
    text += noise(found)
    missing = sorted(f"{name} {metric} {units}: {why}" for (name, metric, units), why in reasons.items())
    if missing:
        text += ["", "### Not measured, and why", ""] + [f"- {line}" for line in missing]
    return "\n".join(text) + "\n"


def value(found, name, metric, units, which):
    """One figure, or None."""
    return found.get((name, metric, units), {}).get(which)


def best_of(found, names, row):
    """The best competitor's (value, name) in a row, or None. In logs only those count that capture and rotate."""
    _, metric, units, which, small = row
    ranked = [(value(found, name, metric, units, which), name) for name in names if name not in UNRANKED
              and (PEERS[name].rotates or not metric.startswith("logs"))]
    ranked = [pair for pair in ranked if pair[0] is not None]
    return (min if small else max)(ranked, default=None)


def comparison(found, names):
    """ringriftd beside the best competitor, dinit and the floor."""
    if OURS not in names:
        return []
    text = ["### ringriftd and the best of the others", "", "A ratio above 1: ringriftd is better.", "",
            "| | ringriftd | best of the others | ratio | dinit | ratio | floor | of the floor |", "|---|---|---|---|---|---|---|---|"]
    for row in ROWS:
        words, metric, units, which, small = row
        ours = value(found, OURS, metric, units, which)
        if ours is None:
            continue
        best = best_of(found, names, row)
        dinit = value(found, "dinit", metric, units, which) if PEERS["dinit"].rotates or not metric.startswith("logs") else None
        floor = value(found, "floor", metric, units, which)
        text.append("| " + " | ".join([
            words, figures.digits(ours), f"{best[1]} {figures.digits(best[0])}" if best else "–",
            figures.digits(figures.ratio(ours, best[0], small)) if best else "–",
            figures.digits(dinit), figures.digits(figures.ratio(ours, dinit, small)),
            figures.digits(floor), figures.digits(ours / floor) if floor else "–"]) + " |")
    grown = growth(found, OURS)
    return text + ([""] + grown if grown else []) + [""]


def growth(found, name):
    """What a further unit costs, in memory and in the time of a boot."""
    small, large = (value(found, name, "pss", units, "median") for units in (78, 1000))
    text = []
    if small and large:
        text.append(f"A further unit costs {figures.digits((large - small) / 922)} KiB (PSS at 1 000 less PSS at 78).")
    each = [(units, value(found, name, "boot", units, "median")) for units in (78, 1000, 10000)]
    each = [f"{figures.digits(ms * 1000 / units)} µs at {units}" for units, ms in each if ms]
    if each:
        text.append(f"Boot, for each unit: {', '.join(each)}.")
    return [" ".join(text)] if text else []


def values(found, names):
    """Everything of everybody."""
    text = ["### All values", "", "| | " + " | ".join(names) + " |", "|---|" + "---|" * len(names)]
    for words, metric, units, which, _ in ROWS:
        cells = [cell(found.get((name, metric, units)), which) for name in names]
        if any(cell != "–" for cell in cells):
            text.append(f"| {words} | " + " | ".join(cells) + " |")
    return text + [""]


def cell(line, which):
    """A figure, with its spread where that is worth saying."""
    if not line or line.get(which) is None:
        return "–"
    spread = line.get("spread", 0) if which == "median" else 0
    return figures.digits(line[which]) + (f" ±{spread * 100:.0f} %" if spread > 0.1 else "")


def machine_rows(found):
    """What the machine takes by itself."""
    rows = [(words, value(found, "floor", metric, 78, which)) for words, metric, which in BASELINE]
    rows = [f"| {words} | {figures.digits(figure)} |" for words, figure in rows if figure is not None]
    return ["### The machine by itself", "", "| | |", "|---|---|"] + rows + [""] if rows else []


def versions(lines, names):
    """Who was measured, and how each was configured."""
    said = {line["supervisor"]: line["version"] for line in lines if line.get("version")}
    text = ["### Who was measured", "", "| | version | pause before a restart | logs | |", "|---|---|---|---|---|"]
    for name in names:
        peer = PEERS[name]
        text.append(f"| {name} | {said.get(name, '?')} | {peer.delay} | {peer.logs or 'none that could be measured'} | {peer.note} |")
    return text + [""]


def noise(found):
    """How much others used the machine."""
    seen = sorted((line["noise"], f"{name} {metric} {units}") for (name, metric, units), line in found.items()
                  if line.get("noise") is not None)
    if not seen:
        return []
    return [f"Noise, the part of all processors that others used just before a measurement: median {seen[len(seen) // 2][0]:.2f}, "
            f"highest {seen[-1][0]:.2f} ({seen[-1][1]})."]


def put_into(document, text):
    """The document with its generated part replaced."""
    head, rest = document.split(BEGIN)
    return f"{head}{BEGIN}\n{text}{END}{rest.split(END)[1]}"


def write(text):
    """Replaces the generated part of docs/performance.md."""
    with open(DOCUMENT) as file:
        document = file.read()
    with open(DOCUMENT, "w") as file:
        file.write(put_into(document, text))
