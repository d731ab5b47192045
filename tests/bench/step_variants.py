"""The four ways to take a response-distillation step that `response_step.py` compares.

One process of each: it builds the same pair from the same seed, then answers requests that arrive
as lines of JSON on its standard input, one line each.
"""

# B sequences, T positions, N = B T, V vocabulary, D width.

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM

from kdwatts.config.paradigm import Paradigm, Response
from kdwatts.data.packing import IGNORE, Batch
from kdwatts.teacher.signals import compute_signals, signal_plan
from kdwatts.training.micro_batch import MicroBatch
from kdwatts.training.objective import PairSizes, objective_of
from kdwatts.training.terms.head_terms import TeacherHead

VOCABULARY = 128_256
NUM_SEQUENCES, LENGTH = 2, 512
WIDTHS, LAYERS = {"student": 256, "teacher": 512}, {"student": 4, "teacher": 8}
HEAD_DIM = 64
Step = Callable[[], Tensor]


def llama(subject: str, *, tied: bool) -> LlamaForCausalLM:
    width = WIDTHS[subject]
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=width,
        intermediate_size=7 * width // 2,
        num_hidden_layers=LAYERS[subject],
        num_attention_heads=width // HEAD_DIM,
        num_key_value_heads=width // HEAD_DIM // 2,
        head_dim=HEAD_DIM,
        tie_word_embeddings=tied,
        initializer_range=0.08,
    )
    torch.manual_seed(len(subject) + LAYERS[subject])
    return LlamaForCausalLM(config)


def make_batch(num_valid: int) -> Batch:
    """Rows whose last positions have targets; the very last one of a row never, as in TRL."""
    generator = torch.Generator().manual_seed(0)
    tokens_BT = torch.randint(VOCABULARY, (NUM_SEQUENCES, LENGTH), generator=generator)
    target_BT = F.pad(tokens_BT[:, 1:], (0, 1), value=IGNORE)
    each = min(num_valid // NUM_SEQUENCES, LENGTH - 1)
    target_BT[:, : LENGTH - 1 - each] = IGNORE
    return Batch(np.arange(NUM_SEQUENCES), tokens_BT, target_BT)


def ours(student: Any, teacher: Any, batch: Batch, temperature: float, chunk_rows: int) -> Step:
    response = Response(1.0, support="dense", temperature=temperature)
    paradigm = Paradigm("response", teacher="online", response=response)
    plan = signal_plan(paradigm, [], VOCABULARY)
    objective = objective_of(
        paradigm,
        [],
        plan,
        sizes=PairSizes(VOCABULARY, WIDTHS["student"], WIDTHS["teacher"]),
        chunk_rows=chunk_rows,
        teacher_head=TeacherHead(teacher.lm_head.weight.detach()),
        seed=0,
    )

    def step() -> Tensor:
        signals = compute_signals(teacher, batch.input_BT, plan, rows=batch.rows)
        size = objective.step_size([batch])
        loss, _ = objective.micro_batch_loss(student, MicroBatch(batch, signals), size)
        loss.backward()
        return loss.detach()

    return step


def dense(student: Any, teacher: Any, batch: Batch, temperature: float, _: int) -> Step:
    """What one writes down first: all logits, torch's own KL, the mask at the end."""
    keep_N = batch.target_BT.flatten() != IGNORE

    def step() -> Tensor:
        student_NV = student(batch.input_BT).logits.flatten(0, 1)
        with torch.no_grad():
            teacher_NV = teacher(batch.input_BT).logits.flatten(0, 1)
        log_q_NV = (student_NV / temperature).log_softmax(-1)
        p_NV = (teacher_NV / temperature).softmax(-1)
        kl_N = F.kl_div(log_q_NV, p_NV, reduction="none").sum(-1)
        loss = temperature**2 * kl_N[keep_N].mean()
        loss.backward()
        return loss.detach()

    return step


def trl(student: Any, teacher: Any, batch: Batch, temperature: float, _: int) -> Step:
    """GKDTrainer's own compute_loss at beta=0, its forward KL; it knows no other temperature."""
    from trl.experimental.gkd import GKDTrainer

    assert temperature == 1
    trainer = GKDTrainer.__new__(GKDTrainer)
    trainer.teacher_model, trainer.beta = teacher, 0
    labels_BT = F.pad(batch.target_BT[:, :-1], (1, 0), value=IGNORE)
    inputs = {
        "input_ids": batch.input_BT,
        "attention_mask": torch.ones_like(batch.input_BT),
        "labels": labels_BT,
    }

    def step() -> Tensor:
        loss = trainer.compute_loss(student, inputs, num_items_in_batch=batch.num_targets)
        assert isinstance(loss, Tensor)
        loss.backward()
        return loss.detach()

    return step


def trl_chunked(
    student: Any, teacher: Any, batch: Batch, temperature: float, chunk_rows: int
) -> Step:
    """TRL's stable path: what DistillationTrainer calls, in its own tiles of 4,096 by 32,768.

    It is given the valid positions alone, as the trainer does on a GPU; on a CPU that projects all.
    """
    from trl.kernels.chunked_divergence import ChunkedDivergenceFunction

    del chunk_rows
    keep_BT = batch.target_BT != IGNORE

    def step() -> Tensor:
        student_NW = student.model(batch.input_BT).last_hidden_state[keep_BT]
        with torch.no_grad():
            teacher_NW = teacher.model(batch.input_BT).last_hidden_state[keep_BT]
        heads = [one.lm_head.weight for one in (student, teacher)]
        divergence_N, _ = ChunkedDivergenceFunction.apply(
            student_NW, heads[0], None, teacher_NW, heads[1], None, 0.0, temperature
        )
        loss = temperature**2 * divergence_N.sum() / batch.num_targets
        loss.backward()
        return loss.detach()

    return step


VARIANTS = {"ours": ours, "dense": dense, "trl": trl, "trl_chunked": trl_chunked}


def products(num_valid: int, chunk_rows: int) -> list[tuple[int, int, int, int, bool]]:
    """The step's matrix products: how many of [n, k] times [k, m], and whether k, m is transposed.

    The body's are on all positions, forward for both models and twice more for the student; the
    heads' on the valid rows alone, chunk by chunk.
    """
    positions, found = NUM_SEQUENCES * LENGTH, []
    num_chunks = -(-num_valid // chunk_rows)
    rows = num_valid // num_chunks
    for subject, width in WIDTHS.items():
        inner, narrow, layers = 7 * width // 2, width // 2, LAYERS[subject]
        # Queries and output; keys and values; gate and up; down.
        for count, k, m in (
            (2, width, width),
            (2, width, narrow),
            (2, width, inner),
            (1, inner, width),
        ):
            found.append((count * layers, positions, k, m, True))
            if subject == "student":
                found.append((count * layers, positions, m, k, False))
                found.append((count * layers, m, positions, k, False))
        found.append((num_chunks, rows, width, VOCABULARY, True))
    found.append((num_chunks, rows, VOCABULARY, WIDTHS["student"], False))
    found.append((num_chunks, VOCABULARY, rows, WIDTHS["student"], False))
    return found


def matrix_seconds(num_valid: int, chunk_rows: int) -> tuple[float, float, float]:
    """Operations, seconds and processor seconds of the step's matrix products alone.

    They write to memory that is at hand.
    """
    flop = seconds = busy = 0.0
    for count, n, k, m, transposed in products(num_valid, chunk_rows):
        left = torch.ones(k, n).T if n > k and not transposed else torch.ones(n, k)
        right = torch.ones(m, k).T if transposed else torch.ones(k, m)
        out = torch.zeros(n, m)
        torch.mm(left, right, out=out)
        started, busy_before = time.perf_counter(), time.process_time()
        torch.mm(left, right, out=out)
        seconds += count * (time.perf_counter() - started)
        busy += count * (time.process_time() - busy_before)
        flop += count * 2.0 * n * k * m
    return flop, seconds, busy


def useful_flop(num_valid: int) -> float:
    """Matrix products and causal attention of a step, forward and, for the student, backward."""
    total = 0.0
    for subject, width in WIDTHS.items():
        passes = 3 if subject == "student" else 1
        per_block = 2 * (2 * width * width + width * width + 3 * width * (7 * width // 2))
        attention = 2 * width * LENGTH
        body = NUM_SEQUENCES * LENGTH * LAYERS[subject] * (per_block + attention)
        total += passes * (body + 2.0 * num_valid * width * VOCABULARY)
    return total


class Peak:
    """Resident memory of this process: what it is, and the most it was since `reset`."""

    @staticmethod
    def _status(name: str) -> float:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(name))

    def now_mib(self) -> float:
        return self._status("VmRSS:")

    def reset(self) -> None:
        Path("/proc/self/clear_refs").write_text("5")

    def most_mib(self) -> float:
        return self._status("VmHWM:")


def gradients(student: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad for name, p in student.named_parameters() if p.grad is not None}


def gradient_error(student: nn.Module, path: str) -> float:
    """The largest relative error of any parameter's gradient, in the Frobenius norm."""
    expected = torch.load(path, weights_only=True)
    found = gradients(student)
    assert found.keys() == expected.keys()
    return max(
        ((found[name].double() - g).norm() / g.norm()).item() for name, g in expected.items()
    )


def serve(variant: str, options: dict[str, Any]) -> None:
    """Answer `step`, `error` and `matrix` until the input ends."""
    num_valid, chunk_rows = options["valid"], options["chunk_rows"]
    batch = make_batch(num_valid)
    student, teacher = (llama(name, tied=options["tied"]) for name in WIDTHS)
    step: Step | None = None
    if variant == "reference":
        student, teacher = student.double(), teacher.double()
        step = dense(student, teacher, batch, options["temperature"], 0)
    elif variant != "matrix":
        step = VARIANTS[variant](student, teacher, batch, options["temperature"], chunk_rows)
    peak = Peak()
    base_mib = peak.now_mib()
    peak.reset()
    for line in sys.stdin:
        request, *arguments = json.loads(line)
        answer: Any = None
        if request == "step" and step:
            student.zero_grad(set_to_none=True)
            started, busy_before = time.perf_counter(), time.process_time()
            loss = step().item()
            answer = {
                "seconds": time.perf_counter() - started,
                "busy": time.process_time() - busy_before,
                "loss": loss,
                "peak_mib": peak.most_mib() - base_mib,
            }
        elif request == "save":
            torch.save(gradients(student), arguments[0])
        elif request == "error":
            answer = gradient_error(student, arguments[0])
        elif request == "matrix":
            answer = matrix_seconds(batch.num_targets, chunk_rows)
        elif request == "useful":
            answer = useful_flop(batch.num_targets)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    serve(sys.argv[1], json.loads(sys.argv[2]))
