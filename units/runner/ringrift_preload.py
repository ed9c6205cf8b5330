"""What the zygote `ringrift` imports: the RingRift checkout that RINGRIFT_HOME names.

    ringrift_zygote.py ringrift_preload:load

Each runner function of the checkout imports its daemon when it is called. `load` reads out of their code what that is,
and imports it beforehand. What cannot be imported here is named and left out: the unit that needs it says the same, with
its own exit code.
"""

from __future__ import annotations

import dis
import importlib
import importlib.util
import inspect
import os
import sys
import types
from collections.abc import Iterator

from ringrift_runner import RUNNERS_MODULE, enter, one_line, reason, service_folder


# What daemons import later, in their start() or first round. A tree that has them not has no daemon that needs them.
LATER = (
    "aiohttp.web",
    "app.coordination.consolidation_eligibility",
    "app.coordination.curriculum_weights",
    "app.coordination.daemon_registry",
    "app.coordination.elo_progress_tracker",
    "app.coordination.node_policies",
    "app.coordination.providers.runpod_provider",
    "app.coordination.providers.vast_provider",
    "app.coordination.sync_router",
    "app.coordination.unified_feedback",
    "app.coordination.work_queue",
    "app.events",
    "app.integration.pipeline_feedback",
    "app.p2p.hybrid_coordinator",
    "app.training.feedback_accelerator",
    "encodings.idna",
)


def say(text: str) -> None:
    """One line on stderr."""
    print(f"ringrift_preload: {one_line(text)}", file=sys.stderr, flush=True)


def imports_of(code: types.CodeType, package: str) -> Iterator[str]:
    """The modules that a function's code imports, without what `from` takes out of them, nested functions included."""
    level = 0
    for instruction in dis.get_instructions(code):
        if instruction.opname in ("LOAD_CONST", "LOAD_SMALL_INT") and isinstance(instruction.argval, int):
            level = instruction.argval
        elif instruction.opname == "IMPORT_NAME":
            name = str(instruction.argval)
            yield importlib.util.resolve_name("." * level + name, package) if level else name
            level = 0
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from imports_of(constant, package)


def load() -> None:
    """Imports it all."""
    home = os.environ.get("RINGRIFT_HOME", "")
    folder = service_folder(home) if home else None
    if folder is None:
        raise ImportError(f"RINGRIFT_HOME={home!r} is no RingRift checkout")
    enter(folder)
    runners = importlib.import_module(RUNNERS_MODULE)
    names = dict.fromkeys(
        name
        for runner in runners.get_all_runners().values()
        for name in imports_of(inspect.unwrap(runner).__code__, RUNNERS_MODULE.rpartition(".")[0])
    )
    for name in [*names, *LATER]:
        try:
            importlib.import_module(name)
        except (Exception, SystemExit) as error:
            if name in names:
                say(f"{name} is left out: {reason(error)}")
