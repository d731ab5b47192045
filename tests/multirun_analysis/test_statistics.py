import pytest

from multirun_analysis.collect import collect
from multirun_analysis.statistics import (
    Comparison,
    against_baseline,
    comparison_words,
    comparisons_table,
    every_pair,
    holm,
    paired_p,
)


@pytest.fixture
def runs_of(make, tmp_path):
    """A table of runs: for each paradigm its values of a column, one for each seed."""

    def write(column="own_energy_j", overrides=None, **values):
        number = 0
        for paradigm, found in values.items():
            for seed, value in enumerate(found):
                make.run(
                    tmp_path / f"{number}-{paradigm}",
                    paradigm=paradigm,
                    seed=seed,
                    student_key=f"{paradigm}-{seed}",
                    overrides=(overrides or {}).get(paradigm, ()),
                    **(value if isinstance(value, dict) else {column: value}),
                )
                number += 1
        return collect([tmp_path]).runs

    return write


def test_p_of_a_paired_t_test_is_that_of_a_worked_example():
    # Differences 1, 2, 3: mean 2, s = 1, t = 2 sqrt(3) with 2 degrees of freedom, where the
    # distribution has a closed form: p = 1 - t / sqrt(t^2 + 2) = 1 - sqrt(12 / 14).
    assert paired_p([1.0, 2.0, 3.0]) == pytest.approx(1 - (12 / 14) ** 0.5)
    # One degree of freedom is Cauchy's: t = 3 for 1 and 2, p = 1 - 2 atan(3) / pi = 0.2048.
    assert paired_p([1.0, 2.0]) == pytest.approx(0.20483, abs=1e-5)
    assert paired_p([-1.0, -2.0]) == paired_p([1.0, 2.0])


def test_differences_that_are_all_alike_have_no_p_and_those_that_are_0_have_1():
    assert paired_p([2.0, 2.0]) is None
    assert paired_p([0.3 - 0.2, 0.2 - 0.1], scale=0.2) is None
    assert paired_p([0.0, 0.0]) == 1.0
    assert paired_p([5.0]) is None


def test_holm_is_that_of_a_worked_example():
    # Ordered 0.01, 0.015, 0.02, 0.04 times 4, 3, 2, 1: 0.04, 0.045, 0.04 raised to 0.045, and 0.04
    # raised to 0.045.
    assert holm([0.04, 0.01, 0.02, 0.015]) == pytest.approx([0.045, 0.04, 0.045, 0.045])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


def test_a_setting_is_held_against_the_baseline_seed_by_seed(runs_of):
    runs = runs_of(sft=[100.0, 200.0, 300.0], response=[111.0, 212.0, 313.0])
    (found,) = against_baseline(runs, ["own_energy_j"])
    assert (found.num_pairs, found.difference, found.effect_pct) == (3, 12.0, pytest.approx(6.0))
    # s = 1, so the half width is 4.303 / sqrt(3); unpaired it would be hundreds of joules.
    assert found.difference_half_width == pytest.approx(4.303 / 3**0.5)
    # t = 12 sqrt(3): p = 1 - sqrt(432 / 434).
    assert found.p == pytest.approx(1 - (432 / 434) ** 0.5)
    assert found.p_holm == found.p
    assert found.verdict == "worse"


def test_more_is_better_only_where_the_column_says_so(runs_of):
    runs = runs_of("om_perf", sft=[0.8, 0.81, 0.82], response=[0.9, 0.911, 0.92])
    (found,) = against_baseline(runs, ["om_perf"])
    assert found.verdict == "better"
    assert "OM_perf: better. +0.1003 ± 0.0014" in comparison_words(found)
    assert "3 pairs of one seed" in comparison_words(found)


def test_what_seeds_cannot_tell_is_within_noise_and_the_words_say_what_could_be_told(runs_of):
    runs = runs_of(sft=[100.0, 100.0], response=[101.0, 105.0])
    (found,) = against_baseline(runs, ["own_energy_j"])
    # s = 2.83, t = 1.5 with 1 degree of freedom.
    assert found.verdict == "within noise"
    # Half width 12.706 * 2.828 / sqrt(2) = 25.4 J of 100 J.
    assert comparison_words(found).endswith("would not have shown a difference below 25 %.")


def test_one_seed_in_common_is_too_few(runs_of):
    runs = runs_of(sft=[100.0, 100.0], response=[120.0])
    (found,) = against_baseline(runs, ["own_energy_j"])
    assert (found.verdict, found.p, found.num_pairs) == ("too few seeds to tell", None, 1)
    assert found.difference == 20
    assert "one pair says nothing about chance" in comparison_words(found)


def test_measured_and_estimated_energies_are_never_compared(runs_of):
    estimated = {"own_energy_j": 50.0, "own_energy_quality": "estimated"}
    runs = runs_of(sft=[100.0, 101.0, 99.0], response=[estimated, 110.0, 109.5])
    (found,) = against_baseline(runs, ["own_energy_j"])
    assert (found.num_pairs, found.num_apart) == (2, 1)
    assert found.mean == pytest.approx(109.75)
    assert "1 left out where one is estimated" in comparison_words(found)
    (all_apart,) = against_baseline(runs[runs["seed"] == 0], ["own_energy_j"])
    assert (all_apart.difference, all_apart.verdict) == (None, "too few seeds to tell")
    assert "no pair can be compared" in comparison_words(all_apart)
    # What holds no joules is compared all the same.
    (kept,) = against_baseline(runs, ["om_perf"])
    assert kept.num_pairs == 3


def test_the_baseline_has_the_same_data_and_overrides_but_not_those_of_the_paradigm(make, tmp_path):
    def write(name, **changes):
        make.run(tmp_path / name, student_key=name, **changes)

    write("plain", paradigm="sft", overrides=("training.target_tokens=1000",), own_energy_j=100.0)
    write("long", paradigm="sft", overrides=("training.target_tokens=9000",), own_energy_j=900.0)
    write("other", paradigm="sft", data="dolly", own_energy_j=500.0)
    write(
        "mine",
        overrides=("training.target_tokens=1000", "paradigm.temperature=4"),
        own_energy_j=130.0,
    )
    write("alone", gpu="a100_80", own_energy_j=70.0)
    (found,) = against_baseline(collect([tmp_path]).runs, ["own_energy_j"])
    assert (found.mean, found.baseline_mean) == (130.0, 100.0)


def test_p_values_are_corrected_over_all_that_is_shown_together(runs_of):
    values = {"sft": [100.0, 200.0, 300.0], "response": [111.0, 212.0, 313.0]}
    runs = runs_of(**values, feature=[115.0, 216.0, 317.0])
    alone = against_baseline(runs[runs["paradigm"] != "feature"], ["own_energy_j"])
    together = {c.label: c for c in against_baseline(runs, ["own_energy_j"])}
    assert together["response"].p == alone[0].p
    # Feature's p is the smaller and is doubled; response's, the last, is its own but never below.
    assert together["feature"].p_holm == pytest.approx(2 * together["feature"].p)
    assert together["response"].p_holm == together["feature"].p_holm > together["response"].p


def test_every_pair_of_settings_is_compared_on_request(runs_of):
    runs = runs_of(sft=[1.0, 2.0], response=[2.0, 3.5], feature=[3.0, 5.0])
    found = every_pair(runs, ["own_energy_j"])
    pairs = {(c.label, c.baseline_label): c.difference for c in found}
    assert pairs == {
        ("response", "sft"): 1.25,
        ("feature", "sft"): 2.5,
        ("feature", "response"): 1.25,
    }


def test_a_column_without_a_better_way_is_refused(runs_of):
    with pytest.raises(ValueError, match=r"compare by seed: .* choose from accuracy_kept, "):
        against_baseline(runs_of(sft=[1.0], response=[2.0]), ["seed"])


def test_comparisons_are_a_table_with_the_units_of_their_columns(runs_of):
    runs = runs_of(sft=[1.0, 2.0], response=[2.0, 3.5])
    table = comparisons_table(against_baseline(runs, ["own_energy_j", "om_perf"]))
    assert list(table["unit"]) == ["J", ""]
    assert list(table["difference"]) == [1.25, 0.0]
    assert list(comparisons_table([]).columns) == list(table.columns)
    assert set(Comparison.__dataclass_fields__) <= set(table.columns)


def test_imported_runs_without_a_seed_are_compared_with_nothing(imported_dir):
    assert every_pair(collect([imported_dir]).runs) == []
