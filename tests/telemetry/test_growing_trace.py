"""The replaying NVML library on a trace that another process goes on writing."""

from __future__ import annotations

LOOK = """
import pynvml
pynvml.nvmlInit()
gpu = pynvml.nvmlDeviceGetHandleByIndex(0)
trace = open(os.environ["NVML_REPLAY_TRACE"], "a")
def write(text):
    trace.write(text)
    trace.flush()
def look():
    before_s = time.monotonic()
    joules = pynvml.nvmlDeviceGetTotalEnergyConsumption(gpu) / 1e3
    return before_s, joules, time.monotonic()
"""

# Counters and times are those of one moment, and the trace's times are monotonic ones.
LIVE = {"live": 1, "start_s": 0, "counter_period_ms": 0, "power_period_ms": 0, "counter_mj": 0}


def are_watts_between(first: list[float], last: list[float], watts: float) -> bool:
    """Whether so many watts may have been drawn, by the moments before and after each look."""
    low_s, high_s = last[0] - first[2], last[2] - first[0]
    return watts * low_s - 0.002 <= last[1] - first[1] <= watts * high_s + 0.002


def test_a_line_counts_from_its_own_time_on_though_it_was_appended_later(start_script):
    body = """
late_s = time.monotonic() - 0.2
first = look()
write(f"{late_s} 300\\n")
print_json([late_s, first, look()])
"""
    late_s, first, last = start_script(LOOK + body, [(0, 100)], **LIVE).finish()
    assert first[0] * 100 <= first[1] + 0.001 and first[1] <= first[2] * 100
    expected_j = late_s * 100 + (last[0] - late_s) * 300
    assert expected_j - 0.001 <= last[1] <= expected_j + (last[2] - last[0]) * 300


def test_a_line_takes_back_what_was_written_for_its_time_and_later(start_script):
    body = """
now_s = time.monotonic()
write(f"{now_s + 0.1} 900\\n{now_s + 0.2} 100\\n")
time.sleep(0.01)
look()
write(f"{now_s + 0.1} 400\\n{now_s + 0.15} 500\\n")
time.sleep(0.25)
first = look()
time.sleep(0.2)
last = look()
print_json([first, last])
"""
    first, last = start_script(LOOK + body, [(0, 100)], **LIVE).finish()
    assert are_watts_between(first, last, 500)


def test_half_a_line_is_no_line(start_script):
    body = """
write(f"{time.monotonic()} 3")
first = look()
time.sleep(0.2)
last = look()
write("00\\n")
after = look()
time.sleep(0.2)
print_json([first, last, after, look()])
"""
    first, last, after, end = start_script(LOOK + body, [(0, 100)], **LIVE).finish()
    assert are_watts_between(first, last, 100)
    assert are_watts_between(after, end, 300)


def test_threads_that_ask_while_the_trace_grows_never_see_the_counter_fall(start_script):
    body = """
import threading
falls = []
def watch():
    seen = 0
    for _ in range(20000):
        joules = look()[1]
        if joules < seen:
            falls.append((seen, joules))
        seen = joules
threads = [threading.Thread(target=watch) for _ in range(4)]
for thread in threads:
    thread.start()
while any(thread.is_alive() for thread in threads):
    write(f"{time.monotonic() + 1e-3} 200\\n{time.monotonic() + 2e-3} 100\\n")
print_json(falls)
"""
    assert start_script(LOOK + body, [(0, 100)], **LIVE).finish() == []


def test_a_trace_that_grows_is_not_read_on_unless_it_is_said_to_be_live(start_script):
    body = """
write(f"{time.monotonic() - 0.1} 300\\n")
first = look()
time.sleep(0.1)
print_json([first, look()])
"""
    settings = LIVE | {"live": 0}
    first, last = start_script(LOOK + body, [(0, 100)], **settings).finish()
    assert are_watts_between(first, last, 100)
