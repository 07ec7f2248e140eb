"""Moves the wall clock of every Python process that finds this folder on its path: by SOAK_CLOCK seconds. Monotonic clocks stay.

Python imports this module by itself at start (the `site` module's documented hook), so children have the same clock. What libfaketime
does, without a library to install and without a hand on the event loop's timers, which go by the monotonic clock.
"""

import os
import time

_OFFSET = float(os.environ.get("SOAK_CLOCK", "0"))
_time, _time_ns, _gmtime = time.time, time.time_ns, time.gmtime


def _gmtime_moved(seconds: float | None = None) -> time.struct_time:
    return _gmtime(time.time() if seconds is None else seconds)


if _OFFSET:
    time.time = lambda: _time() + _OFFSET
    time.time_ns = lambda: _time_ns() + int(_OFFSET * 1e9)
    time.gmtime = _gmtime_moved
