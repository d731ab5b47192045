"""Tables as LaTeX: what a paper inputs is whole, escaped, and compiles."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from multirun_analysis.__main__ import main
from multirun_analysis.report.latex import MAX_FLOAT_ROWS, latex_table, latex_text
from multirun_analysis.report.typeset import Typeset

EVIL = 'a_b & 50 % #1 $x^{2}$ ~ \\textbf{c} <d> | "e" ± [*`1]'
"""A name that holds all signs that LaTeX reads."""


def test_text_is_printed_as_it_stands():
    assert latex_text("50 % & a_b #1 $ {x}") == r"50 \% \& a\_b \#1 \$ \{x\}"
    assert latex_text("\\x ~ ^") == r"\textbackslash{}x \textasciitilde{} \textasciicircum{}"
    assert latex_text("<a> | ± 3 µJ†") == r"$<$a$>$ $|$ $\pm$ 3 $\mu$J$^\dagger$"
    assert latex_text("3 gCO2e") == "3 gCO$_2$e"


def test_what_stands_after_the_end_of_a_row_does_not_belong_to_it():
    assert latex_text("[a] *b") == "{[}a{]} {*}b"
    assert latex_text("a\x1bb\x07") == "ab"
    assert latex_text("\N{MINUS SIGN}3 ≤ x") == r"$-$3 $\le$ x"


def test_a_table_with_letters_that_pdflatex_lacks_says_which_program_has_them():
    shown = Typeset(["Run", "Energy (J)"], "lr", [["жук", "20"]], [None], "")
    first = latex_table("energy_by_stage", "Energy by stage", shown, "").splitlines()[0]
    assert first == (
        r"% Needs \usepackage{booktabs} and, for жук, LuaLaTeX with a font that has these."
    )


def test_a_minus_is_one_and_the_hyphen_of_a_name_stays():
    assert latex_text("-4.2 ± 0.9 %") == r"$-$4.2 $\pm$ 0.9 \%"
    assert latex_text("(-1 to 56)") == "($-$1 to 56)"
    assert latex_text("gpt-2") == "gpt-2" and latex_text("fine-tuning") == "fine-tuning"
    assert latex_text("-") == "--"  # A missing number.


def test_a_table_has_rules_caption_and_label_and_says_which_packages_it_needs():
    shown = Typeset(["Run", "Energy (J)"], "lr", [["a", "20 ± 1†"]], [None], "† estimated.")
    text = latex_table("energy_by_stage", "Energy by stage", shown, "3 more rows.")
    assert text.splitlines() == [
        r"% Needs \usepackage{booktabs}.",
        r"\begin{table}[htbp]",
        r"\centering",
        r"\caption[Energy by stage]{Energy by stage. $^\dagger$ estimated. 3 more rows.}",
        r"\label{tab:energy-by-stage}",
        r"\smallskip",
        r"\begin{tabular}{lr}",
        r"\toprule",
        r"Run & Energy (J) \\",
        r"\midrule",
        r"a & 20 $\pm$ 1$^\dagger$ \\",
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]


def test_a_table_that_fits_no_page_breaks_over_pages():
    rows = [[str(i)] for i in range(MAX_FLOAT_ROWS + 1)]
    text = latex_table("loss_curves", "Loss", Typeset(["Step"], "r", rows, [], ""), "")
    assert text.startswith("% Needs \\usepackage{booktabs,longtable}.\n\\begin{longtable}{r}\n")
    assert r"\endhead" in text and "{table}" not in text


@pytest.fixture(scope="module")
def tables(make: Any, sweep_dir: Path, imported_dir: Path, tmp_path_factory: Any) -> list[Path]:
    """The LaTeX tables of a sweep, of imported runs, and of runs with a name that is all signs."""
    evil_dir = tmp_path_factory.mktemp("evil")
    for seed in range(2):
        for paradigm in ("sft", EVIL):
            name = f"{seed}{paradigm == EVIL}"
            folder = make.run(evil_dir / name, paradigm=paradigm, seed=seed, student_key=name)
            make.append(folder / "stages.jsonl", [make.stage("distill")])
    paths = []
    for directory in (sweep_dir, imported_dir, evil_dir):
        out_dir = tmp_path_factory.mktemp("analysis")
        assert main([str(directory), "--out", str(out_dir)]) == 0
        paths += sorted((out_dir / "tables").glob("*.tex"))
    return paths


def test_braces_environments_and_cells_balance_and_no_sign_is_left_unescaped(tables: list[Path]):
    assert len(tables) > 25
    for path in tables:
        text = path.read_text(encoding="utf-8").split("\n", 1)[1]
        bare = re.sub(r"\\[\\&%$#_{}]", "", text.replace("\\\\\n", "\n"))
        assert bare.count("{") == bare.count("}"), path
        ends = [(kind, name) for kind, name in re.findall(r"\\(begin|end)\{(\w+)\}", text)]
        assert [name for kind, name in ends if kind == "begin"] == [
            name for kind, name in reversed(ends) if kind == "end"
        ], path
        assert not re.search(r"[%#~\"]|(?<!\$)_|\^(?!\\|\{)", bare), path
        assert bare.count("$") % 2 == 0, path
        (align,) = re.findall(r"\\begin\{(?:tabular|longtable)\}\{([lr]+)\}", text)
        rows = [line for line in text.splitlines() if line.endswith("\\\\") and "&" in line]
        cells = {len(re.findall(r"(?<!\\)&", row)) + 1 for row in rows if "multicolumn" not in row}
        assert cells == {len(align)}, path
        assert r"\toprule" in text and r"\bottomrule" in text


def test_every_table_has_a_label_of_its_own_and_no_path_of_the_machine(tables: list[Path]):
    for folder in {path.parent for path in tables}:
        texts = [path.read_text(encoding="utf-8") for path in folder.glob("*.tex")]
        labels = [label for text in texts for label in re.findall(r"\\label\{(tab:[^}]+)\}", text)]
        assert len(labels) == len(set(labels)) == len(texts)
        for text in texts:
            assert not re.search(r"(?<![\w$ ])/\w+/|/tmp\b|/home\b", text)


def test_all_tables_of_a_report_compile_in_one_document(tables: list[Path], tmp_path: Path):
    if shutil.which("pdflatex") is None:
        pytest.skip("pdflatex is not installed: apt-get install texlive-latex-recommended")
    for index, folder in enumerate(sorted({path.parent for path in tables})):
        inputs = "".join(f"\\input{{{path}}}\n" for path in sorted(folder.glob("*.tex")))
        document = tmp_path / f"all{index}.tex"
        document.write_text(
            "\\documentclass{article}\n\\usepackage{booktabs,longtable}\n"
            f"\\begin{{document}}\n\\listoftables\n{inputs}\\end{{document}}\n"
        )
        found = subprocess.run(
            ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", document.name],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
        assert found.returncode == 0, found.stdout[-3000:]
        assert document.with_suffix(".pdf").is_file()
