"""A small server in the place of vLLM, which answers from a model's true logits.

`prompt_logprobs` have vLLM's form: null, then for each token the K likeliest in its place and the
token itself. The flag --behaviour names a fault.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import torch
from torch import Tensor


def entries_of(logits_PV: Tensor, prompt: Sequence[int], k: int) -> list[Any]:
    """What vLLM says of a prompt: position p of the logits stands for token p + 1."""
    log_p_PV = logits_PV.float().log_softmax(-1)
    entries: list[Any] = [None]
    for own, log_p_V in zip(prompt[1:], log_p_PV, strict=False):
        top_K, ids_K = log_p_V.topk(k)
        # The token itself comes first, and its rank counts all that are not below it.
        rank = int((log_p_V >= log_p_V[own]).sum())
        told = [(own, log_p_V[own], rank)]
        told += zip(ids_K.tolist(), top_K, range(1, k + 1), strict=True)
        entries.append(
            {str(i): {"logprob": float(p), "rank": r, "decoded_token": None} for i, p, r in told}
        )
    return entries


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    model: Any = None
    given: argparse.Namespace
    lock = threading.Lock()
    answered = 0

    def do_GET(self) -> None:
        self._answer(200 if self.path == "/health" else 404, b"")

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        ids, k, given = asked["prompt"], asked["prompt_logprobs"], self.given
        assert asked["max_tokens"] == 1 and asked["model"] == given.served_model_name
        if k > given.max_logprobs or len(ids) + 1 > given.max_model_len:
            error = {"message": f"{k} logprobs of {len(ids)} tokens are too many"}
            self._answer(400, json.dumps({"error": error}).encode())
            return
        with self.lock, torch.no_grad():
            Handler.answered += 1
            if given.behaviour == "dies" and Handler.answered > 20:
                print("ERROR 11-30 06:20:01 [core.py:9] OSError: the GPU fell off", flush=True)
                os._exit(3)
            entries = entries_of(self.model(torch.tensor([ids])).logits[0, :-1], ids, k)
        if given.behaviour == "lacks":
            entries[3].popitem()
        if given.behaviour == "nan":
            entries[3] = {name: one | {"logprob": float("nan")} for name, one in entries[3].items()}
        choice = {"index": 0, "text": "", "finish_reason": "length", "prompt_logprobs": entries}
        self._answer(200, json.dumps({"choices": [choice]}).encode())

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        del format, arguments


def main() -> None:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--behaviour", default="")
    for flag in ("--host", "--served-model-name", "--model", "--dtype"):
        parser.add_argument(flag)
    for flag in ("--port", "--max-logprobs", "--max-model-len"):
        parser.add_argument(flag, type=int)
    Handler.given, _ = parser.parse_known_args()
    print("arguments", *sys.argv[1:], flush=True)
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(1)
    dtype = getattr(torch, Handler.given.dtype)
    Handler.model = AutoModelForCausalLM.from_pretrained(Handler.given.model, dtype=dtype).eval()
    ThreadingHTTPServer.request_queue_size = 128
    ThreadingHTTPServer((Handler.given.host, Handler.given.port), Handler).serve_forever()


if __name__ == "__main__":
    main()
