"""Where the benchmark finds and puts things: below `target/` of the checkout, or where BENCH_BUILD says."""
import os

HERE = os.path.dirname(os.path.abspath(__file__))
CHECKOUT = os.path.dirname(os.path.dirname(HERE))
TARGET = os.environ.get("CARGO_TARGET_DIR", os.path.join(CHECKOUT, "target"))
BUILD = os.path.abspath(os.environ.get("BENCH_BUILD", os.path.join(TARGET, "bench")))
BIN = os.path.join(BUILD, "bin")
CHILD = os.path.join(BIN, "child")
RESULTS = os.path.join(BUILD, "results.jsonl")
# The profile of cargo whose programs are measured, unless RINGRIFTD and RINGRIFTCTL name others.
PROFILE = os.environ.get("BENCH_PROFILE", "release")


def program(name):
    """One of the project's own programs."""
    return os.environ.get(name.upper().replace("-", "_"), os.path.join(TARGET, PROFILE, name))
