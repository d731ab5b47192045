"""The page: what was found, what it was held against, and what to do, in lines that fit."""

from dataclasses import replace

from kdwatts.doctor.verdict_lines import heading, lines_of, summary
from kdwatts.records.doctor_record import DoctorRecord, Verdict

RECORD = DoctorRecord(
    time_utc="2026-12-01T08:00:00+00:00", host="node7", gpu_uuid=None, gpu=None, cpu="EPYC",
    pair="tiny", minutes=5.0, took_s=290.0, kdwatts="0.1.0",
)  # fmt: skip


def test_what_a_verdict_was_held_against_is_a_line_below_it():
    one = Verdict("idle_power", "right", "62 W", against="20 to 90 W, the data sheet")
    assert lines_of(one) == (
        "  right      idle power: 62 W\n             held against 20 to 90 W, the data sheet"
    )


def test_a_remedy_has_an_arrow_and_a_verdict_that_is_none_a_dash():
    one = Verdict("rapl", None, "cannot be read", remedy="sudo chmod a+r energy_uj")
    assert lines_of(one) == (
        "  -          rapl: cannot be read\n             -> sudo chmod a+r energy_uj"
    )


def test_long_words_go_below_each_other_within_the_width_and_no_word_is_cut():
    path = "/sys/class/powercap/intel-rapl:0/energy_uj"
    one = Verdict("rapl", "attention", "may be read by root alone, " * 4, remedy=f"chmod {path}")
    lines = lines_of(one, width=60).split("\n")
    assert max(map(len, lines)) <= 60
    assert lines[1].startswith(" " * 13) and lines[1][13] != " "
    assert lines[-1] == f"                {path}" or lines[-1].endswith(path)


def test_every_word_of_a_verdict_starts_in_one_column():
    columns = {
        lines_of(Verdict("one", word, "x")).index("one")
        for word in ("right", "attention", "wrong", None)
    }
    assert columns == {13}


def test_the_summary_counts_every_verdict_and_names_the_wrong_ones():
    words = ("right", "right", "attention", "wrong", None)
    verdicts = [Verdict(f"check_{n}", word, "x") for n, word in enumerate(words)]
    assert summary(replace(RECORD, verdicts=verdicts)) == (
        "\n2 right, 1 attention, 1 wrong; 1 without a verdict. Wrong: check 3."
    )
    assert "Wrong" not in summary(replace(RECORD, verdicts=verdicts[:3]))


def test_a_chapter_is_a_line_of_its_own():
    assert heading("surroundings") == "\nSurroundings"
