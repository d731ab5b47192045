"""What is refused before a server is started, and what the records of one say."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kdwatts.config.serving import RunningServers, Serving, TransformersServe, Vllm
from kdwatts.serving.engines import vllm_server
from kdwatts.serving.engines.dialects import check_length
from kdwatts.serving.engines.served_model import ServedModel
from kdwatts.serving.engines.starting import check, engine_record, engine_version


def _record(settings: Serving, model: str, **changes: Any) -> Any:
    how = {"subject": "student", "dtype": "bfloat16", "device_indices": (0,), "max_positions": None}
    return engine_record(settings, ServedModel(model, **(how | changes)))


@pytest.mark.parametrize(
    "flag", ["--port", "--port=1", "--host=::", "--model=x", "--served_model_name=x", "--por=1"]
)
def test_a_flag_that_is_ours_is_refused(flag: str, stand_in_python: str):
    settings = Serving(engine="vllm", vllm=Vllm(python=stand_in_python, flags=[flag]))
    with pytest.raises(ValueError, match=rf"vllm\.flags has {flag}, but kdwatts sets --\S+ itself"):
        check(settings)


def test_a_flag_of_transformers_serve_that_is_ours_is_refused():
    settings = Serving(engine="transformers", transformers=TransformersServe(["--device=cpu"]))
    with pytest.raises(ValueError, match=r"transformers\.flags has --device=cpu, but kdwatts sets"):
        check(settings)


def test_a_flag_that_prints_prompts_is_refused(stand_in_python: str):
    settings = Serving(
        engine="vllm", vllm=Vllm(python=stand_in_python, flags=["--enable-log-requests"])
    )
    with pytest.raises(ValueError, match="it writes prompts to the log"):
        check(settings)


def test_flags_that_begin_like_ours_are_allowed(stand_in_python: str):
    flags = ["--model-impl=auto", "--max-num-seqs", "64", "-O3"]
    check(Serving(engine="vllm", vllm=Vllm(python=stand_in_python, flags=flags)))


def test_an_interpreter_without_vllm_is_named():
    settings = Serving(engine="vllm", vllm=Vllm(python=sys.executable))
    with pytest.raises(ValueError, match=r"vllm\.python=\S+: \S+ has no vLLM; install it in"):
        check(settings)


def test_a_missing_interpreter_is_named():
    settings = Serving(engine="vllm", vllm=Vllm(python="/nowhere/python"))
    with pytest.raises(ValueError, match=r"vllm\.python=/nowhere/python cannot be run \(No such"):
        check(settings)


def test_the_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "uvicorn" else real(name)
    )
    with pytest.raises(ValueError, match=r"needs uvicorn, .* pip install 'kdwatts\[serving\]'$"):
        check(Serving(engine="transformers"))


def test_an_engine_url_without_an_address_is_refused():
    with pytest.raises(ValueError, match=r"engine=url has no address; set eval\.serving\.url"):
        check(Serving(engine="url"))


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "http://", "ftp://a", "http://a:b"])
def test_what_is_no_address_is_refused(url: str):
    with pytest.raises(ValueError, match=r"eval\.serving\.url\.student=.* is no address"):
        check(Serving(engine="url", url=RunningServers(student=url)))


def test_versions_are_known_without_a_server(stand_in_python: str):
    import transformers

    assert engine_version(Serving()) is None
    assert engine_version(Serving(engine="transformers")) == transformers.__version__
    vllm = Serving(engine="vllm", vllm=Vllm(python=stand_in_python))
    assert engine_version(vllm) == "9.9.0"


def test_a_users_flag_stands_in_for_ours(stand_in_python: str):
    flags = ["--max-model-len", "64", "--generation-config=auto", "--quantization=fp8"]
    settings = Serving(engine="vllm", vllm=Vllm(python=stand_in_python, flags=flags))
    record = _record(settings, "somebody/model", max_positions=512)
    assert record.flags == ["--dtype=bfloat16", "--seed=0", "--disable-uvicorn-access-log", *flags]
    assert (record.precision, record.quantization) == ("bfloat16", "fp8")


def test_a_quantised_folder_says_so_itself(tmp_path: Path, stand_in_python: str):
    config = {"dtype": "float16", "quantization_config": {"quant_method": "gptq", "bits": 4}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    settings = Serving(engine="vllm", vllm=Vllm(python=stand_in_python))
    record = _record(settings, str(tmp_path), dtype="auto")
    assert (record.precision, record.quantization) == ("float16", "gptq, 4 bits")


def test_a_folder_that_transformers_serve_would_misread_is_refused(tmp_path: Path):
    (tmp_path / "a@b").mkdir()
    with pytest.raises(ValueError, match="takes what follows @ for a revision"):
        _record(Serving(engine="transformers"), str(tmp_path / "a@b"))


def test_variables_of_vllm_are_in_the_record_but_no_secret_and_no_path(
    stand_in_python: str, monkeypatch: pytest.MonkeyPatch
):
    for name, value in (
        ("VLLM_CPU_KVCACHE_SPACE", "4"),
        ("VLLM_API_KEY", "s3cret"),
        ("VLLM_CACHE_ROOT", "/scratch/vllm"),
    ):
        monkeypatch.setenv(name, value)
    record = _record(
        Serving(engine="vllm", vllm=Vllm(python=stand_in_python)), "a/b", device_indices=None
    )
    assert [flag for flag in record.flags if flag.startswith("VLLM")] == [
        "VLLM_CPU_KVCACHE_SPACE=4"
    ]


@pytest.mark.parametrize("build", ["0.32.0 (vllm-cpu)", "0.32.0+cpu"])
def test_a_build_for_cpus_is_refused_where_the_run_has_a_gpu(
    build: str, stand_in_python: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(vllm_server, "installed_version", lambda _: build)
    settings = Serving(engine="vllm", vllm=Vllm(python=stand_in_python))
    with pytest.raises(ValueError, match=r"a build for CPUs, and the run has a GPU; install"):
        _record(settings, "somebody/model", device_indices=(0, 1))
    assert _record(settings, "somebody/model", device_indices=None).version == build


def test_starting_a_server_and_guarding_it_imports_no_torch():
    script = (
        "import sys, kdwatts.serving.engines.starting, kdwatts.serving.engines.guard; "
        "print([name for name in ('torch', 'transformers', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_heads_that_are_too_narrow_for_vllm_are_refused_before_it_starts(
    tmp_path: Path, stand_in_python: str
):
    (tmp_path / "config.json").write_text('{"hidden_size": 48, "num_attention_heads": 4}')
    settings = Serving(engine="vllm", vllm=Vllm(python=stand_in_python))
    with pytest.raises(ValueError, match=r"heads at least 32 wide, and \S+ has heads 12 wide"):
        _record(settings, str(tmp_path))


def test_a_length_that_a_server_cannot_be_asked_for_is_refused():
    check_length("vllm", "forced")
    check_length("openai", "natural")
    with pytest.raises(ValueError, match=r"set eval\.serving\.workload\.length=natural"):
        check_length("openai", "forced")


def test_an_address_with_a_password_is_refused_without_showing_it():
    url = RunningServers(student="http://me:secret@127.0.0.1:8000")
    with pytest.raises(ValueError, match="give the address without it") as caught:
        check(Serving(engine="url", url=url))
    assert "secret" not in str(caught.value)
