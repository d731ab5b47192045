"""A wall clock that is an hour fast in one second and an hour slow in the next."""

import time

_time, _time_ns = time.time, time.time_ns


def _ahead_s() -> int:
    return 3600 if int(time.monotonic()) % 2 else -3600


time.time = lambda: _time() + _ahead_s()
time.time_ns = lambda: _time_ns() + _ahead_s() * 10**9
