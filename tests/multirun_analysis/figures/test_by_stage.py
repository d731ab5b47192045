from multirun_analysis.collect.collection import collect
from multirun_analysis.figures.by_stage import energy_by_stage


def test_reused_stages_are_hatched_and_built_ones_are_not(sweep_dir):
    collected = collect([sweep_dir])
    fig = energy_by_stage(collected.runs, collected.stages).figure
    shapes = {trace.name: trace.marker.pattern.shape for trace in fig.data}
    assert shapes["teacher, reused"] == "/"
    assert shapes["teacher"] == ""
    reused = next(trace for trace in fig.data if trace.name == "teacher, reused")
    assert set(reused.x) == {90}
