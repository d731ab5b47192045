"""Servers that run already: what they are, which model they serve, where their processes are."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from kdwatts.config.serving import RunningServers, Serving
from kdwatts.serving.engines.counters import tokens_counted
from kdwatts.serving.engines.http_get import get
from kdwatts.serving.engines.running_server import attach
from kdwatts.serving.engines.starting import engine_version
from tests.waits import wait_until

Pages = dict[str, object]

VLLM: Pages = {
    "/v1/models": {"data": [{"id": "big", "owned_by": "vllm", "max_model_len": 4096}]},
    "/version": {"version": "0.32.0"},
}
SGLANG: Pages = {
    "/v1/models": {"data": [{"id": "big", "owned_by": "sglang", "max_model_len": 2048}]},
    "/server_info": {"version": "0.5.4"},
}
LLAMACPP: Pages = {
    "/v1/models": {"data": [{"id": "big.gguf", "owned_by": "llamacpp"}]},
    "/props": {"build_info": "b7000-00dc805", "default_generation_settings": {"n_ctx": 1024}},
}
OPENAI: Pages = {"/v1/models": {"data": [{"id": "big"}]}}
TRANSFORMERS: Pages = {
    "/v1/models": {"data": [{"id": "cached/one", "owned_by": "cached"}]},
    "/openapi.json": {"paths": {"/load_model": {}, "/v1/responses": {}}},
}


@contextmanager
def _serving(pages: Pages) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps(pages.get(self.path)).encode()
            self.send_response(200 if self.path in pages else 404)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: object) -> None:
            del format, arguments

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("pages", "name", "dialect", "version", "model", "positions"),
    [
        (VLLM, "url (vllm)", "vllm", "0.32.0", "big", 4096),
        (SGLANG, "url (sglang)", "sglang", "0.5.4", "big", 2048),
        (LLAMACPP, "url (llamacpp)", "llamacpp", "b7000-00dc805", "big.gguf", 1024),
        (OPENAI, "url", "openai", None, "big", None),
    ],
)
def test_a_server_is_recognised_by_its_own_pages(
    pages: Pages,
    name: str,
    dialect: str,
    version: str | None,
    model: str,
    positions: int | None,
):
    with _serving(pages) as url:
        server = attach(RunningServers(student=f"{url}/v1/"), "student", max_positions=None)
    assert (server.url, server.record.name, server.dialect) == (url, name, dialect)
    assert (server.record.version, server.model) == (version, model)
    assert server.max_positions == positions
    assert (server.record.precision, server.record.quantization) == (None, None)


def test_transformers_serve_is_recognised_and_must_be_given_the_models_name():
    with _serving(TRANSFORMERS) as url:
        named = RunningServers(teacher=url, teacher_model="/models/big")
        server = attach(named, "teacher", max_positions=99)
        assert (server.dialect, server.model) == ("transformers", "/models/big")
        assert server.max_positions == 99
        with pytest.raises(ValueError, match=r"set eval\.serving\.url\.teacher_model$"):
            attach(RunningServers(teacher=url), "teacher", max_positions=None)


def test_a_model_that_the_server_does_not_list_is_refused_with_those_that_it_lists():
    with (
        _serving(VLLM) as url,
        pytest.raises(ValueError, match=r"serves no model 'small', it lists big; correct"),
    ):
        attach(RunningServers(student=url, student_model="small"), "model", max_positions=None)


def test_of_two_models_one_must_be_named():
    two: Pages = {"/v1/models": {"data": [{"id": "a"}, {"id": "b"}]}}
    with (
        _serving(two) as url,
        pytest.raises(ValueError, match=r"which model it serves, it lists a, b; set"),
    ):
        attach(RunningServers(student=url), "student", max_positions=None)


def test_an_address_where_nobody_answers_is_named():
    with _serving(VLLM) as url:
        pass
    with pytest.raises(RuntimeError, match=rf"url\.student={url} does not answer; start"):
        attach(RunningServers(student=url), "student", max_positions=None)


def test_the_other_subject_needs_an_address_of_its_own():
    with pytest.raises(ValueError, match=r"no address for the teacher; set eval\.serving\.url\.te"):
        attach(RunningServers(student="http://127.0.0.1:1"), "teacher", max_positions=None)


def test_the_versions_of_both_servers_are_in_the_key():
    with _serving(VLLM) as student, _serving(SGLANG) as teacher:
        url = RunningServers(student=student, teacher=teacher)
        assert engine_version(Serving(engine="url", url=url)) == "vllm 0.32.0; sglang 0.5.4"


def test_a_server_that_ended_says_so_and_one_that_runs_does_not():
    with _serving(VLLM) as url:
        server = attach(RunningServers(student=url), "student", max_positions=None)
        assert server.why_dead() is None
    assert server.why_dead() == f"the server at {url} has ended: nothing listens there any more"


def test_the_process_of_a_server_on_this_host_is_the_root_of_its_group_and_not_our_ancestor(
    stand_in_python: str,
):
    """Here a shell starts it, in a group of its own; the listener is below that shell."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    module = "vllm.entrypoints.openai.api_server"
    flags = f"--host=127.0.0.1 --port={port} --served-model-name=big"
    command = f"{stand_in_python} -m {module} {flags} & wait"
    shell = subprocess.Popen(["/bin/sh", "-c", command], stdout=subprocess.DEVNULL, process_group=0)
    try:
        settings = RunningServers(student=f"http://localhost:{port}")
        wait_until(lambda: get(f"http://localhost:{port}/health"))
        server = attach(settings, "student", max_positions=None)
        assert server.pid == shell.pid
    finally:
        os.killpg(shell.pid, signal.SIGKILL)
        shell.wait()


def test_older_engines_state_what_their_caches_held():
    vllm = (
        "vllm:generation_tokens_total 9.0\nvllm:prompt_tokens_total 100.0\n"
        "vllm:prefix_cache_hits_total 25.0\n"
    )
    assert tokens_counted(vllm, "vllm") == {"computed_prompt_tokens": 75.0, "output_tokens": 9.0}
    sglang = (
        'sglang:prompt_tokens_total{model_name="m"} 50.0\n'
        'sglang:generation_tokens_total{model_name="m"} 8.0\n'
        'sglang:cached_tokens_total{model_name="m"} 20.0\n'
    )
    assert tokens_counted(sglang, "sglang") == {
        "computed_prompt_tokens": 30.0,
        "output_tokens": 8.0,
    }
    llamacpp = "llamacpp:prompt_tokens_total 33\nllamacpp:tokens_predicted_total 7\n"
    assert tokens_counted(llamacpp, "llamacpp") == {
        "computed_prompt_tokens": 33.0,
        "output_tokens": 7.0,
    }
    assert tokens_counted("vllm:num_requests_running 1.0\n", "vllm") is None
