"""A call in a process of its own, which may crash or hang without harm to the next."""

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

CANNOT_FORK = 77  # exit status of a call that found CUDA touched before the fork


def run_isolated(call: Callable[[], int], limit_s: float, how: str) -> int | None:
    """Exit status that `call` returns (negative: the signal that ended it); None if it was stopped after `limit_s`.

    how   "fork" (libraries that are loaded stay so; CUDA must not have been used), "spawn", or "none": in this process
          and without a limit
    """
    if how == "none":
        return call()
    process: Any = getattr(multiprocessing.get_context(how), "Process")(target=_child, args=(call,))  # noqa: B009
    process.start()
    process.join(limit_s)
    if process.exitcode is not None:
        return int(process.exitcode)
    _stop(process)
    return None


def _child(call: Callable[[], int]) -> None:
    os.setsid()  # so that what it starts can be ended with it
    status = call()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # libraries that linger at exit cost no time


def _stop(process: Any) -> None:
    """End the process and the group that it leads."""
    with suppress(ProcessLookupError):
        if os.getpgid(process.pid) == process.pid:
            os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.join(30)
