"""The package is complete: from its sdist and its wheel kdwatts works in any folder."""

from __future__ import annotations

import os
import re
import tarfile
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest

import kdwatts
from tests.installed import ROOT, build, environment, here, install, run


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel that is made of the sdist, as an installer without a wheel makes it."""
    private = ROOT / "conf" / "local" / f"of_a_test_{os.getpid()}.yaml"
    private.write_text("cluster: {account: nobody_s_business}\n")
    folder = tmp_path_factory.mktemp("package")
    try:
        sdist = build("sdist", folder)
    finally:
        private.unlink()
    with tarfile.open(sdist) as archive:
        archive.extractall(folder / "source", filter="data")
    (source,) = (folder / "source").iterdir()
    return build("wheel", folder / "wheels", source)


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    python = environment(tmp_path_factory.mktemp("user") / "env", here())
    install(python, wheel)
    return python


@pytest.fixture(scope="module")
def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("dist-info/METADATA"))
        return Parser().parsestr(archive.read(name).decode())


def test_it_composes_from_its_own_conf_in_another_folder(python: Path, tmp_path: Path):
    where = run(
        python, tmp_path, "-c", "from kdwatts.runtime.paths import conf_dir as c; print(c())"
    )
    assert Path(where.stdout.strip()).parts[-3:] == ("site-packages", "kdwatts", "conf")
    done = run(python, tmp_path, "-m", "kdwatts", "--cfg", "job", "model=qwen25_7b_to_1b5")
    assert done.returncode == 0, done.stderr
    assert "Qwen/Qwen2.5-7B-Instruct" in done.stdout


def test_its_console_script_plans_with_a_user_s_conf_beside_ours(python: Path, tmp_path: Path):
    mine = tmp_path / "conf" / "training" / "mine.yaml"
    mine.parent.mkdir(parents=True)
    mine.write_text("defaults: [smoke]\nlearning_rate: 0.123\n")
    words = ("--config-dir", "conf", "training=mine", "gpu=cpu")
    shown = run(python.with_name("kdwatts"), tmp_path, *words, "--cfg", "job")
    assert "learning_rate: 0.123" in shown.stdout, shown.stderr
    done = run(python.with_name("kdwatts"), tmp_path, *words, "until=plan")
    assert done.returncode == 0, done.stderr
    assert "inference_teacher" in done.stdout


def test_it_carries_no_tests_and_no_docs(names: set[str]):
    folders = {name.partition("/")[0] for name in names}
    assert {"kdwatts", "multirun_analysis", "hydra_plugins"} < folders
    assert not folders & {"tests", "conf", "docs", "notebooks"}


def test_it_carries_every_group_and_template(names: set[str]):
    conf = {f"kdwatts/{path.relative_to(ROOT)}" for path in (ROOT / "conf").rglob("*.yaml")}
    private = {name for name in conf if "/local/" in name and not name.endswith("/example.yaml")}
    report = Path("multirun_analysis", "report")
    kinds = ("*.j2", "*.css", "*.js")
    files = {str(path.relative_to(ROOT)) for kind in kinds for path in (ROOT / report).rglob(kind)}
    assert len(conf) > 60 and len(files) > 10
    assert (conf - private) | files <= names


def test_it_carries_the_launcher_for_slurm_and_no_site_s_own_values(
    python: Path, names: set[str], tmp_path: Path
):
    done = run(python, tmp_path, "-m", "kdwatts", "--cfg", "hydra", "hydra/launcher=slurm")
    assert "_target_: hydra_plugins.kdwatts_slurm.KdwattsSlurmLauncher" in done.stdout, done.stderr
    local = {name for name in names if name.startswith("kdwatts/conf/local/")}
    assert local == {"kdwatts/conf/local/example.yaml"}


@pytest.mark.slow
def test_the_demo_s_sweep_runs_from_any_folder_and_is_reported(python: Path, tmp_path: Path):
    command = ("-m", "kdwatts", "-m", "paradigm=sft,response,feature,relational", "training=smoke")
    done = run(python, tmp_path, *command, "hydra.sweep.dir=demo", "eval.inference=null")
    assert done.returncode == 0, done.stderr
    done = run(python, tmp_path, "-m", "multirun_analysis", "demo")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "demo" / "analysis" / "report.html").stat().st_size > 1_000_000


def test_its_metadata_says_what_who_and_under_what_licence(metadata: Message):
    assert metadata["Version"] == kdwatts.__version__
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.11"
    for field in ("Summary", "Author", "Keywords", "Description-Content-Type"):
        assert metadata[field], field
    assert len(metadata.get_all("Classifier", [])) > 5
    assert metadata.get_payload().startswith("# kdwatts")


def test_the_citation_names_the_version_that_is_installed():
    citation = (ROOT / "CITATION.cff").read_text("utf-8")
    assert re.findall(r"^version: (.+)$", citation, re.MULTILINE) == [kdwatts.__version__]


def test_every_extra_stands_on_the_page_on_installing(metadata: Message):
    page = (ROOT / "docs" / "how_to" / "install.md").read_text("utf-8")
    rows = "".join(line for line in page.splitlines() if line.startswith("| "))
    named = set(re.findall(r"`kdwatts\[(\w+)\]`", rows))
    assert named == set(metadata.get_all("Provides-Extra", []))
