"""Real signals to this very process."""

from __future__ import annotations

import os
import signal
import time

import pytest

from kdwatts.runtime import interrupt


def _send(number: int) -> None:
    os.kill(os.getpid(), number)


def test_a_signal_that_another_rank_received_stops_this_one_and_no_signal_does_not():
    with interrupt.deferred():
        interrupt.join(interrupt.number())
        assert (interrupt.number(), interrupt.requested()) == (0, None)
        interrupt.join(signal.SIGTERM)
        assert interrupt.number() == signal.SIGTERM
        interrupt.join(signal.SIGUSR2)
        assert interrupt.requested() == "SIGTERM"


@pytest.mark.parametrize("number", interrupt.SIGNALS)
def test_a_signal_only_raises_the_flag_and_the_step_in_progress_ends(number: signal.Signals):
    with interrupt.deferred():
        assert interrupt.requested() is None
        interrupt.stop_if_requested("nothing is lost")
        _send(number)
        assert interrupt.requested() == number.name
        with pytest.raises(
            interrupt.Preempted,
            match=f"^stopped by {number.name}; saved after step 7; run the same command to go on$",
        ):
            interrupt.stop_if_requested("saved after step 7")


def test_the_first_of_several_signals_is_the_one_that_is_told():
    with interrupt.deferred():
        _send(signal.SIGUSR2)
        _send(signal.SIGTERM)
        assert interrupt.requested() == "SIGUSR2"


def test_a_second_ctrl_c_stops_at_once():
    with pytest.raises(KeyboardInterrupt), interrupt.deferred():
        _send(signal.SIGINT)
        assert interrupt.requested() == "SIGINT"
        _send(signal.SIGINT)
        pytest.fail("the second Ctrl-C was ignored")


def test_handlers_of_before_act_again_afterwards_even_when_the_run_failed():
    before = {number: signal.getsignal(number) for number in interrupt.SIGNALS}
    with pytest.raises(ZeroDivisionError), interrupt.deferred():
        assert all(signal.getsignal(n) is not handler for n, handler in before.items())
        _ = 1 / 0
    assert {number: signal.getsignal(number) for number in interrupt.SIGNALS} == before


def test_a_new_run_does_not_inherit_the_flag_of_the_last():
    with interrupt.deferred():
        _send(signal.SIGTERM)
    with interrupt.deferred():
        assert interrupt.requested() is None


def test_work_without_a_boundary_is_ended_when_the_patience_is_over():
    with interrupt.deferred(patience_s=0.05):
        time.sleep(0.1)  # Nothing was asked yet.
        with pytest.raises(interrupt.Preempted, match=r"^stopped by SIGUSR2; .* within 0.05 s and"):
            _send(signal.SIGUSR2)
            time.sleep(60)
        assert interrupt.received() == (signal.SIGUSR2,)


def test_work_that_has_ended_is_not_interrupted_any_more():
    with interrupt.deferred(patience_s=0.5):
        _send(signal.SIGUSR2)
        interrupt.settle()
        time.sleep(0.7)
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


def test_a_ctrl_c_that_ends_a_command_is_told_in_one_sentence(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as stop, interrupt.ended_in_a_sentence("kdwatts"):
        raise KeyboardInterrupt
    assert stop.value.code == interrupt.EXIT_INTERRUPTED == 130
    said = capsys.readouterr().err
    assert said == "kdwatts: stopped by Ctrl-C; run the same command to go on\n"
