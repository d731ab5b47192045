"""Findings in words: means by setting, what is noise, and what serves alike."""

from multirun_analysis.collect.collection import collect
from multirun_analysis.narrative.findings import noise_words, result_rows, served_alike_words
from multirun_analysis.values.rows import distinct_students


def test_a_missing_number_is_a_dash_and_seeds_that_lack_it_are_counted(make, tmp_path):
    make.seeds(tmp_path, [{"om_perf": kept, "co2e_kg": None} for kept in (0.9, 0.9, None)])
    heads, (row, _) = result_rows(distinct_students(collect([tmp_path]).runs))
    found = dict(zip(heads, row, strict=True))
    assert found["OM_perf"] == "0.900 (of 2)"
    assert found["CO2e"] == "-"


def test_noise_and_sameness_are_counted_with_what_would_settle_them(make, tmp_path):
    """Against 100 J each: 2 J of sd 1 are the same, 40 J of sd 20 and 45 J of sd 15 are noise."""
    shapes = {
        "sft": (100, 100, 100), "response": (101, 102, 103), "feature": (120, 140, 160),
        "relational": (130, 145, 160),
    }  # fmt: skip
    for paradigm, joules in shapes.items():
        for seed, own_j in enumerate(joules):
            name = f"{paradigm}-{seed}"
            make.run(
                tmp_path / name, paradigm=paradigm, seed=seed, student_key=name,
                own_energy_j=float(own_j),
            )  # fmt: skip
    *_, energy, _ = noise_words(collect([tmp_path]).runs)
    # d = 2 and 3 of three comparisons: between the 5 and 4 of one and the 7 and 5 of four.
    assert energy == (
        "Own energy against plain fine-tuning (sft): 2 of 3 within noise (95 % intervals up to ± "
        "50 %). About 5 to 6 seeds would decide, if the true difference is the observed one. 1 of "
        "3 the same within 10 %."
    )


def test_students_under_two_power_limits_or_on_two_hosts_are_not_pooled_as_noise(make, tmp_path):
    """Served at 250 W for 10 and 12 mJ, at 700 W for 30 and 32 mJ: two numbers, never 21 mJ."""
    limits = {250.0: (0.010, 0.012), 700.0: (0.030, 0.032)}
    for limit_w, joules in limits.items():
        for paradigm, j in zip(("sft", "response"), joules, strict=True):
            name = f"{paradigm}-{limit_w:g}"
            make.run(
                tmp_path / name,
                paradigm=paradigm,
                student_key=name,
                power_limit_w=limit_w,
                student_total_j_per_token=j,
            )
    low, high = served_alike_words(collect([tmp_path]).runs)
    assert "The 2 students of tiny on h100 at 250 W" in low
    assert "Single runs measured 10.0 mJ to 12.0 mJ." in low
    assert "at 700 W" in high and "Single runs measured 30.0 mJ to 32.0 mJ." in high
    manifest = tmp_path / "sft-250" / "manifest.json"
    manifest.write_text(manifest.read_text().replace("node7", "node8"))
    assert len(served_alike_words(collect([tmp_path]).runs)) == 1
