"""Whether the hub of models answers from here."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

from huggingface_hub import constants

from kdwatts.doctor.patient import Patient
from kdwatts.records.doctor_record import Verdict

PATIENCE_S = 3
"""How long the hub may take."""
CLOSED = (401, 403, 407)
"""Answers of a proxy, or of a hub, that lets nobody in (RFC 9110, section 15.5)."""
START_S = 30
"""How long a child may take to load the hub's library, on a busy machine."""

# The alarm also ends a wait for the name server, which no time limit of a request does.
_ASK = """
import signal, sys, time
from huggingface_hub.utils import get_session
session = get_session()
signal.alarm(int(sys.argv[2]))
began_s = time.monotonic()
try:
    answer = session.head(sys.argv[1])
except Exception as error:
    sys.exit(f"{type(error).__name__}: {error}")
print(answer.status_code, time.monotonic() - began_s)
"""


def hub_answer(patient: Patient, seconds: float) -> Iterator[Verdict]:
    """The verdict on the hub, by the endpoint and the offline mode of huggingface_hub."""
    del patient
    if constants.HF_HUB_OFFLINE:
        found = "not asked: HF_HUB_OFFLINE is set, so models and data come from this disk alone"
        yield Verdict("hub", None, found)
        return
    yield asked(constants.ENDPOINT, patience_s=max(1, min(PATIENCE_S, int(seconds))))


def asked(endpoint: str, *, patience_s: int = PATIENCE_S) -> Verdict:
    """The verdict on one hub, after a request for nothing but its front page's header."""
    # -P: nothing of the folder in which it is started.
    command = [sys.executable, "-P", "-c", _ASK, endpoint, str(patience_s)]
    environment = os.environ | {"HF_HUB_OFFLINE": "0"}
    against = f"an answer of {endpoint} within {patience_s} s"
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            env=environment,
            timeout=START_S + patience_s,
        )
    except subprocess.TimeoutExpired:
        return Verdict("hub", None, f"the hub's library did not load within {START_S} s", against)
    if done.returncode == 0:
        status, took_s = done.stdout.split()
        if int(status) < 500 and int(status) not in CLOSED:
            found = f"{endpoint} answered in {1000 * float(took_s):.0f} ms"
            return Verdict("hub", "right", found, against, value=float(took_s), unit="s")
        why = f"it answers with status {status}"
    elif done.returncode == -signal.SIGALRM:
        why = f"no answer within {patience_s} s"
    else:
        why = " ".join((done.stderr.strip() or "no reason").split("\n")[-1].split())[:200]
    remedy = (
        "where there is a network: python -m kdwatts until=prefetch with your words; "
        "then export HF_HUB_OFFLINE=1"
    )
    return Verdict("hub", "attention", f"{endpoint} is not reachable: {why}", against, remedy)
