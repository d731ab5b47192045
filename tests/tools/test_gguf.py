"""A model folder from a GGUF file, which the package that reads it writes too."""

import struct
import sys
import zipfile

import pytest

from kdwatts.tools import gguf
from kdwatts.tools.gguf import convert, main, shortest_decimal


def test_without_its_reader_the_sentence_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setattr(gguf, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'kdwatts\[gguf\]'"):
        convert(tmp_path / "a.gguf", tmp_path / "out")


def test_a_folder_that_is_there_is_kept(tmp_path):
    with pytest.raises(ValueError, match=r"exists; remove it to convert a\.gguf again"):
        convert(tmp_path / "a.gguf", tmp_path)


@pytest.mark.parametrize("names", [(), ("a.gguf", "b.gguf")])
def test_an_archive_holds_one_file(tmp_path, monkeypatch, names):
    monkeypatch.setattr(gguf, "find_spec", lambda name: sys)
    with zipfile.ZipFile(tmp_path / "a.whl", "w") as archive:
        for name in names:
            archive.writestr(name, "")
    with pytest.raises(
        ValueError, match=rf"a.whl holds {len(names)} GGUF files; give a file that holds"
    ):
        convert(tmp_path / "a.whl", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_missing_file_ends_the_command_with_2_and_one_sentence(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(gguf, "find_spec", lambda name: sys)
    assert main([str(tmp_path / "none.gguf"), str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_number_that_gguf_keeps_in_float32_is_written_as_it_was_published():
    kept = struct.unpack("f", struct.pack("f", 1e-5))[0]
    assert kept == 9.999999747378752e-06
    assert shortest_decimal(kept) == 1e-5
