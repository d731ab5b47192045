"""The load: it computes while it is asked to, on so many threads, and leaves nothing behind."""

from __future__ import annotations

import threading
import time

import pytest
import torch

from kdwatts.doctor.instruments.known_load import Products, pulses, uneven_s, wave_s
from tests.waits import wait_until


class Recorded:
    """A load that draws nothing and notes when it was asked to."""

    place = "cpu"
    num_done = 0

    def __init__(self) -> None:
        self.asked: list[tuple[str, float]] = []

    def begin(self, share: float = 1.0) -> float:
        self.asked.append(("on", time.monotonic()))
        return self.asked[-1][1]

    def end(self) -> float:
        self.asked.append(("off", time.monotonic()))
        return self.asked[-1][1]

    def close(self) -> None:
        pass


def test_products_are_counted_from_begin_to_end_and_no_thread_is_left():
    before, torch_threads = set(threading.enumerate()), torch.get_num_threads()
    load = Products(torch.device("cpu"), num_threads=2, size=64)
    assert (load.place, load.num_done) == ("cpu", 0)
    began_s = load.begin()
    while load.num_done < 20:
        time.sleep(0.001)
    ended_s = load.end()
    assert began_s < ended_s <= time.monotonic()
    done = load.num_done
    time.sleep(0.05)
    assert load.num_done == done
    load.begin()
    load.close()
    assert set(threading.enumerate()) <= before
    assert torch.get_num_threads() == torch_threads


@pytest.mark.parametrize(("share", "expected"), [(1.0, 4), (0.5, 2), (0.01, 1)])
def test_a_share_of_a_cpu_s_load_is_a_share_of_its_threads(share: float, expected: int):
    before = set(threading.enumerate())
    load = Products(torch.device("cpu"), num_threads=4, size=16)
    load.begin(share)
    assert len(set(threading.enumerate()) - before) == expected
    load.close()


def test_a_share_of_one_thread_is_a_share_of_its_time():
    load = Products(torch.device("cpu"), size=256)
    used_s = time.process_time()
    began_s = load.begin(0.2)
    time.sleep(0.5)
    # A busy machine only makes it less.
    assert time.process_time() - used_s < 0.6 * (load.end() - began_s)
    assert load.num_done > 0
    load.close()


def test_what_a_product_raises_comes_out_at_the_end(monkeypatch: pytest.MonkeyPatch):
    before = set(threading.enumerate())
    load = Products(torch.device("cpu"), size=16)

    def fails(*_: object, **__: object) -> None:
        raise MemoryError("no room for a product")

    monkeypatch.setattr(torch, "matmul", fails)
    load.begin()
    wait_until(lambda: set(threading.enumerate()) <= before)
    with pytest.raises(MemoryError, match="no room"):
        load.end()
    load.close()


def test_pulses_tell_when_the_load_was_on_and_do_not_drift():
    load = Recorded()
    began_s = time.monotonic()
    drawn = pulses(load, [0.05, 0.02, 0.03, 0.04])
    assert time.monotonic() - began_s >= 0.14
    assert [time_s for pulse in drawn for time_s in pulse] == [time_s for _, time_s in load.asked]
    assert [word for word, _ in load.asked] == ["on", "off", "on", "off"]
    assert drawn[1].on_s - began_s >= 0.07
    assert drawn[1].off_s - began_s >= 0.10


def test_a_square_wave_has_whole_periods_and_an_uneven_one_ends_without_a_load():
    assert wave_s(0.25, 1.0) == [0.125] * 8
    assert wave_s(4.0, 1.0) == [2.0, 2.0]
    turns_s = uneven_s(5.0)
    assert 5.0 <= sum(turns_s) < 7.0 and len(turns_s) % 2 == 0
    # Edges fall on all tenths of a sensor's period of 100 ms.
    edges_s = [sum(uneven_s(10.0)[:k]) for k in range(len(uneven_s(10.0)))]
    assert len({round(100 * edge_s) % 10 for edge_s in edges_s}) >= 8
