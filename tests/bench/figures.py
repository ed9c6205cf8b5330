"""Pure sums over measured values: no clock, no file, no process. Tested by tests/python/test_bench.py."""
import statistics


def percentile(values, percent):
    """The nearest-rank percentile of at least one value."""
    ordered = sorted(values)
    return ordered[round(percent / 100 * (len(ordered) - 1))]


def summary(values):
    """What is kept of a series: how many, the median, the extremes, p99, and the spread (half the distance between the
    quartiles, as a fraction of the median: what a neighbour on the machine does to a figure shows here)."""
    found = dict(n=len(values))
    if values:
        median = statistics.median(values)
        found.update(median=round(median, 4), min=round(min(values), 4), max=round(max(values), 4),
                     p99=round(percentile(values, 99), 4))
        if len(values) > 2 and median:
            found["spread"] = round((percentile(values, 75) - percentile(values, 25)) / 2 / median, 3)
    return found


def ratio(ours, theirs, small_is_good):
    """How many times better we are: above 1 is ahead, whether a small figure is good or a large one. None when it cannot be said."""
    if ours is None or theirs is None or not (theirs if small_is_good else ours):
        return None
    if small_is_good:
        return theirs / ours if ours else None
    return ours / theirs if theirs else None


def newest(lines):
    """The last line of each (supervisor, metric, units) wins, whether it is a figure or the reason why there is none."""
    figures, reasons = {}, {}
    for line in lines:
        key = (line["supervisor"], line["metric"], line["units"])
        if line.get("why"):
            reasons[key] = line["why"]
            figures.pop(key, None)
        elif line.get("n"):
            figures[key] = line
            reasons.pop(key, None)
    return figures, reasons


def digits(value):
    """A figure with three digits that mean something."""
    if value is None:
        return "–"
    size = abs(value)
    if size >= 100:
        return f"{value:.0f}"
    if size >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}" if size >= 1 else f"{value:.3f}"
