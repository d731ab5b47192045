"""The notebooks, run from top to bottom on runs of ours and on recorded H100 runs."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from multirun_analysis.__main__ import main
from tests.multirun_analysis.foreign_records import H100_RUNS
from tests.multirun_analysis.written_runs import write_sweep

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))


def test_the_notebooks_are_those_that_the_readme_names():
    assert [path.stem for path in NOTEBOOKS] == [
        "01_energy_curves", "02_trade_offs", "03_break_even", "04_report",
    ]  # fmt: skip


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_no_output_is_kept_in_a_notebook(path):
    for cell in nbformat.read(path, as_version=4).cells:
        assert not cell.get("outputs") and cell.get("execution_count") is None


@pytest.fixture(scope="module")
def runs_dirs(tmp_path_factory):
    """A sweep of three seeds, and the recorded runs imported."""
    ours = write_sweep(tmp_path_factory.mktemp("sweep"))
    recorded = tmp_path_factory.mktemp("h100")
    assert main(["import", str(H100_RUNS), "--out", str(recorded)]) == 0
    return {"ours": ours, "recorded": recorded}


def run(path, runs_dir, tmp_path, monkeypatch):
    """The text and the number of figures that a notebook shows."""
    monkeypatch.setenv("KDWATTS_RUNS", str(runs_dir))
    monkeypatch.setenv("KDWATTS_OUT", str(tmp_path / "out"))
    notebook = nbformat.read(path, as_version=4)
    work_dir = tmp_path / "notebooks"
    work_dir.mkdir()
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(work_dir)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    text = "".join(output.get("text", "") for output in outputs)
    figures = [o for o in outputs if "application/vnd.plotly.v1+json" in o.get("data", {})]
    return text, len(figures)


@pytest.mark.slow
# Of the kernel's own connection, which is closed after the notebook.
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
@pytest.mark.parametrize("which", ["ours", "recorded"])
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_from_top_to_bottom(path, which, runs_dirs, tmp_path, monkeypatch):
    text, num_figures = run(path, runs_dirs[which], tmp_path, monkeypatch)
    num_drawn = {"01_energy_curves": 4, "02_trade_offs": 6, "03_break_even": 5, "04_report": 0}
    assert num_figures == num_drawn[path.stem]
    expected = {
        ("01_energy_curves", "recorded"): "Its GPUs ran a kernel 33 % of the time",
        ("02_trade_offs", "ours"): "(95 % interval, 3 pairs)",
        ("03_break_even", "ours"): "(measured)",
        ("04_report", "ours"): "keeps 9",
        ("04_report", "recorded"): "Slimming-Models-Saving-Watts",
    }.get((path.stem, which), "")
    assert expected in text
    if path.stem == "04_report":
        assert (tmp_path / "out" / "report_esg.html").is_file()
