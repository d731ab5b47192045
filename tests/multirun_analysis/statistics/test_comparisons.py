import pytest

from kdwatts.metrics.comparing import paired_power, seeds_needed
from multirun_analysis.collect.collection import collect
from multirun_analysis.statistics.comparison_words import comparison_words, seeds_words
from multirun_analysis.statistics.comparisons import (
    Comparison,
    against_baseline,
    comparisons_table,
    every_pair,
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


def test_a_setting_is_held_against_the_baseline_seed_by_seed(runs_of):
    runs = runs_of(sft=[100.0, 200.0, 300.0], response=[111.0, 212.0, 313.0])
    (found,) = against_baseline(runs, ["own_energy_j"])
    assert (found.num_pairs, found.difference, found.effect_pct) == (3, 12.0, pytest.approx(6.0))
    # s = 1, so the half width is 4.302653 / sqrt(3); unpaired it would be hundreds of joules.
    assert found.difference_half_width == pytest.approx(4.302653 / 3**0.5)
    # t = 12 sqrt(3): p = 1 - sqrt(432 / 434).
    assert found.p == pytest.approx(1 - (432 / 434) ** 0.5)
    assert found.p_holm == found.p
    assert found.verdict == "worse"


def test_more_is_better_only_where_the_column_says_so(runs_of):
    runs = runs_of("om_perf", sft=[0.8, 0.81, 0.82], response=[0.9, 0.911, 0.92])
    (found,) = against_baseline(runs, ["om_perf"])
    assert found.verdict == "better"
    assert "OM_perf: better. Difference +0.1003 ± 0.0014 or " in comparison_words(found)
    assert "(95 % interval, 3 pairs)" in comparison_words(found)


def test_what_seeds_cannot_tell_is_within_noise_and_the_words_say_what_could_be_told(runs_of):
    runs = runs_of(sft=[100.0, 100.0], response=[101.0, 105.0])
    (found,) = against_baseline(runs, ["own_energy_j"])
    # s = 2.83, t = 1.5 with 1 degree of freedom.
    assert found.verdict == "within noise"
    # Half width 12.706 * 2.828 / sqrt(2) = 25.4 J of 100 J.
    assert "2 pairs cannot show a difference below 25 %. " in comparison_words(found)
    # d = 3 / 2.828 = 1.061, a little more than the 1 that takes 10 seeds.
    assert paired_power(3 / 8**0.5, 9) < 0.8 < paired_power(3 / 8**0.5, 10)
    assert found.seeds_needed == 10
    assert comparison_words(found).endswith(
        "About 10 seeds would decide it, if the true difference is the observed one."
    )


def test_of_a_tiny_difference_the_words_say_what_would_show_the_two_to_be_the_same(runs_of):
    # Differences 6, -6, 0.3: a sd of 6 % allows no margin of 10 % with three pairs.
    runs = runs_of(sft=[100.0, 100.0, 100.0], response=[106.0, 94.0, 100.3])
    (found,) = against_baseline(runs, ["own_energy_j"])
    assert (found.verdict, found.seeds_needed, found.same_within_pct) == ("within noise", 51, None)
    # x / sd = 1.67: between the 6 seeds of 1.5 and the 4 of 2.
    assert found.seeds_for_same == 5
    assert comparison_words(found).endswith(
        "More than 50 seeds would decide it, if the true difference is the observed one. If there "
        "is no difference, about 5 seeds would show that both are the same within 10 %."
    )


def test_settings_without_any_difference_are_not_promised_a_number_of_seeds(runs_of):
    (found,) = against_baseline(runs_of("om_perf", sft=[0.9] * 3, response=[0.9] * 3), ["om_perf"])
    assert (found.verdict, found.seeds_needed, found.p_same_holm) == ("within noise", None, None)
    assert comparison_words(found).endswith("the number of seeds that would decide is not known.")


def test_settings_that_are_shown_to_be_alike_are_the_same_within_the_smallest_margin(runs_of):
    runs = runs_of(sft=[100.0] * 5, response=[99.0, 101.0, 100.5, 99.5, 100.2])
    (found,) = against_baseline(runs, ["own_energy_j"])
    # sd 0.796, mean 0.04, t = (3 - 0.04) sqrt(5) / 0.796 = 8.3 and at 1 % 2.7: p 0.0006 and 0.027.
    assert (found.verdict, found.same_within_pct) == ("the same within 1 %", 1)
    assert found.p_same_holm == pytest.approx(0.027, abs=0.001)
    assert (found.seeds_needed, found.is_same) == (None, True)
    words = comparison_words(found)
    assert "own energy: the same within 1 %. " in words
    assert words.endswith(
        "(95 % interval, 5 pairs); p is 0.92. For a difference of 1 % or more p is 0.027."
    )


def test_a_margin_of_10_per_cent_is_for_joules_and_not_for_scores(runs_of):
    # One-sided 5 % of t with 2 degrees of freedom is 2.92; t = 10 sqrt(3) / 3 = 5.8, at 5 % 2.89.
    values = {"sft": [1.0, 1.0, 1.0], "response": [0.97, 1.0, 1.03]}
    (joules,) = against_baseline(runs_of("own_energy_j", **values), ["own_energy_j"])
    assert joules.verdict == "the same within 10 %"


def test_bits_per_byte_5_per_cent_apart_are_never_the_same(runs_of):
    values = {"sft": [1.0, 1.0, 1.0], "response": [0.98, 1.0, 1.02]}
    runs = runs_of("student_bits_per_byte", **values)
    (bits,) = against_baseline(runs, ["student_bits_per_byte"])
    assert (bits.verdict, bits.same_within_pct) == ("within noise", None)
    # One-sided with 2 degrees of freedom: (1 - t / sqrt(t^2 + 2)) / 2 at t = 3 sqrt(3) / 2.
    t = 1.5 * 3**0.5
    assert bits.p_same_holm == pytest.approx((1 - t / (t**2 + 2) ** 0.5) / 2)


def test_more_settings_ask_for_more_seeds_and_make_the_same_less_sure(runs_of):
    sft = [100.0, 100.0, 100.0]
    one = [103.0, 101.0, 102.0]
    (alone,) = against_baseline(runs_of(sft=sft, response=one), ["own_energy_j"])
    # d = 2 of one comparison is 5 seeds, of four 7.
    assert (alone.p_holm, alone.verdict) == (pytest.approx(0.0742, abs=1e-4), "the same within 5 %")
    assert seeds_needed([3.0, 1.0, 2.0], alpha=0.05 / 4) == 7


STUDY_BITS_PER_BYTE = {
    "response": (-4.8, 2.8), "feature": (-7, 7), "relational": (-4.4, 6.2), "combined": (-8, 7),
}  # fmt: skip
"""Against sft in %, and half of the 95 % interval over three seeds: docs/study of November 2026."""


def test_four_to_seven_seeds_settle_the_bits_per_byte_of_the_study(runs_of):
    """Three seeds called all four paradigms within noise of fine-tuning."""
    base = 3.1
    values = {"sft": [base] * 3}
    for paradigm, (effect, half_width) in STUDY_BITS_PER_BYTE.items():
        sd = half_width * 3**0.5 / 4.303
        values[paradigm] = [base * (1 + (effect + k * sd) / 100) for k in (-1, 0, 1)]
    found = against_baseline(runs_of("student_bits_per_byte", **values), ["student_bits_per_byte"])
    assert {c.verdict for c in found} == {"within noise"}
    ds = {c.label: abs(c.difference) * 4.303 / c.difference_half_width / 3**0.5 for c in found}
    rounded = {label: round(d, 1) for label, d in ds.items()}
    assert rounded == {"response": 4.3, "feature": 2.5, "relational": 1.8, "combined": 2.8}
    # At 0.05 / 4 the table has 4, 5, 7 and 9 seeds for d = 4, 3, 2 and 1.5. The noncentral t of
    # scipy.stats has a power of 80.1 % for d = 2.48 with 5, and of 82.0 % for 1.76 with 7.
    seeds = {c.label: c.seeds_needed for c in found}
    assert seeds == {"response": 4, "feature": 5, "relational": 7, "combined": 5}
    assert seeds_words(seeds.values()) == "about 4 to 7"


def test_numbers_of_seeds_are_said_as_what_they_are():
    assert seeds_words([5]) == seeds_words([5, None, 5]) == "about 5"
    assert seeds_words([50, 9, 12]) == "about 9 to 50"
    assert seeds_words([51, 9]) == "about 9 to more than 50"
    assert seeds_words([51, 51]) == "more than 50"
    assert seeds_words([None]) == seeds_words([]) == ""


@pytest.mark.parametrize("column", ["student_total_j_per_token", "eff_overall"])
def test_students_that_are_served_alike_are_not_compared_by_measurements_of_serving(
    runs_of, column
):
    noise = {"sft": [1.0, 2.0, 3.0], "response": [1.1, 2.2, 3.1]}
    runs = runs_of(column, **noise)
    assert against_baseline(runs, [column]) == every_pair(runs, [column]) == []
    assert len(against_baseline(runs, ["om_perf"])) == 1


def test_where_students_are_served_alike_is_what_the_key_of_serving_says(runs_of):
    column = "student_total_j_per_token"
    runs = runs_of(column, sft=[1.0, 2.0, 3.0], response=[1.1, 2.2, 3.1])
    assert every_pair(runs.assign(student_served_key="a"), [column]) == []
    own = runs.assign(student_served_key=runs["paradigm"])
    assert len(every_pair(own, [column])) == 1


def test_one_seed_in_common_is_too_few(runs_of):
    runs = runs_of(sft=[100.0, 100.0], response=[120.0])
    (found,) = against_baseline(runs, ["own_energy_j"])
    assert (found.verdict, found.p, found.num_pairs) == ("too few seeds to tell", None, 1)
    assert found.difference == 20
    assert "One pair cannot be tested." in comparison_words(found)


def test_measured_and_estimated_energies_are_never_compared(runs_of):
    estimated = {"own_energy_j": 50.0, "own_energy_quality": "estimated"}
    runs = runs_of(sft=[100.0, 101.0, 99.0], response=[estimated, 110.0, 109.5])
    (found,) = against_baseline(runs, ["own_energy_j"])
    assert (found.num_pairs, found.num_apart) == (2, 1)
    assert found.mean == pytest.approx(109.75)
    assert "1 left out, where one run is estimated" in comparison_words(found)
    (all_apart,) = against_baseline(runs[runs["seed"] == 0], ["own_energy_j"])
    assert (all_apart.difference, all_apart.verdict) == (None, "too few seeds to tell")
    assert "so they are not compared" in comparison_words(all_apart)
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
    # d = 1.25 / 0.354 = 3.5 of two comparisons; of no difference nothing can be said.
    assert table["seeds_needed"].to_csv(index=False).split("\n")[1:3] == ["4", '""']
    assert list(comparisons_table([]).columns) == list(table.columns)
    shown = set(Comparison.__dataclass_fields__) - {"pairs", "num_tests"}
    assert {*shown, "seeds_needed", "seeds_for_same"} <= set(table.columns)


def test_how_many_seeds_it_takes_is_searched_only_where_it_is_asked(runs_of):
    runs = runs_of(sft=[100.0, 100.0], response=[101.0, 105.0], feature=[101.0, 106.0])
    found = every_pair(runs, ["own_energy_j"])
    assert all("seeds_needed" not in vars(c) for c in found)
    # Three pairs of settings are three tests.
    assert found[0].seeds_needed == seeds_needed([1.0, 5.0], alpha=0.05 / 3)


def test_imported_runs_without_a_seed_are_compared_with_nothing(imported_dir):
    assert every_pair(collect([imported_dir]).runs) == []
