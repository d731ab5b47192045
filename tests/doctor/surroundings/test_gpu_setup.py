"""A GPU's setup on the replaying NVML library. One process looks at all cases in turn."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

CASES = {
    "healthy": {},
    "shared": {"PIDS": "STRANGER"},
    "limited": {"LIMIT_W": "400"},
    "raised": {"LIMIT_W": "750"},
    "hot": {"REASONS": str(0x1 | 0x40), "CLOCK_MHZ": "345", "TEMPERATURE_C": "93"},
    "braked": {"REASONS": str(0x80)},
    "locked": {"REASONS": str(0x2)},
    "idle": {"REASONS": str(0x1)},
    "not persistent": {"PERSISTENCE": "0"},
    "without ecc": {"ECC": "0"},
    "with errors": {"ECC_ERRORS": "3"},
    "silent": {
        "PERSISTENCE": "-1", "ECC": "-1", "REASONS": "-1", "LIMIT_W": "-1", "CLOCK_MHZ": "-1",
    },
    "default unknown": {"DEFAULT_LIMIT_W": "-1", "LIMIT_W": "300"},
}  # fmt: skip

BODY = """
from kdwatts.doctor.surroundings.gpu_setup import gpu_setup
from kdwatts.doctor.surroundings.plan_room import plan_room
from kdwatts.doctor.surroundings.store_speed import store_speed
from tests.doctor.surroundings.looking import looked, patient_of, verdicts_on
patient = patient_of("model=llama31_8b_to_1b")
cases, stranger = json.loads(os.environ["CASES"]), os.environ["STRANGER"]
printed = {}
for name, settings in cases.items():
    settings = {f"NVML_REPLAY_{key}": text.replace("STRANGER", stranger)
                for key, text in settings.items()}
    os.environ.update(settings)
    printed[name] = verdicts_on(patient, gpu_setup, seconds=0.3)
    for key in settings:
        del os.environ[key]
os.environ["NVML_REPLAY_PIDS"] = stranger
printed["allowed"] = looked(gpu_setup, "telemetry.allow_shared=true")
del os.environ["NVML_REPLAY_PIDS"]
printed["plan"] = verdicts_on(patient, plan_room)
printed["small"] = looked(plan_room, "model=llama31_8b_to_1b", "training.micro_batch=64",
                          "training.accumulation=1", "training.gradient_checkpointing=false")
os.environ["NVML_REPLAY_MEMORY_USED_GIB"] = "70"
printed["taken"] = verdicts_on(patient, plan_room)
del os.environ["NVML_REPLAY_MEMORY_USED_GIB"]
printed["speed"] = looked(store_speed, "model=llama31_8b_to_1b", f"store_dir={out_dir}/store")
printed["cpu"] = looked(gpu_setup, "gpu=cpu")
print_json(printed)
"""


SLICED = """
from kdwatts.doctor.surroundings.gpu_setup import gpu_setup
from tests.doctor.surroundings.looking import looked
print_json(looked(gpu_setup))
"""


@pytest.fixture(scope="module")
def printed(start_script):
    stranger = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
    try:
        environment = {"CASES": json.dumps(CASES), "STRANGER": str(stranger.pid)}
        scripts = [
            start_script(BODY, environment=environment),
            start_script(SLICED, mig=1),
        ]
        found = scripts[0].finish() | {"sliced": scripts[1].finish()}
    finally:
        stranger.kill()
        stranger.wait()
    return found | {"stranger": stranger.pid}


def verdicts(found) -> dict[str, str | None]:
    return {name: one["verdict"] for name, one in found.items()}


def not_right(found) -> list[str]:
    return [name for name, verdict in verdicts(found).items() if verdict != "right"]


def test_a_healthy_gpu_is_right_in_every_respect(printed):
    assert set(verdicts(printed["healthy"]).values()) == {"right"}
    assert len(printed["healthy"]) == 6
    assert set(verdicts(printed["idle"]).values()) == {"right"}


def test_a_stranger_s_process_is_wrong_and_named(printed):
    assert not_right(printed["shared"]) == ["other_processes"]
    found = printed["shared"]["other_processes"]
    assert found["verdict"] == "wrong"
    assert f"pid {printed['stranger']} (python" in found["found"]
    assert "telemetry.allow_shared=true" in found["remedy"]
    assert printed["allowed"]["other_processes"]["verdict"] == "attention"


def test_a_power_limit_below_the_default_needs_attention_and_its_remedy_sets_the_default(printed):
    assert not_right(printed["limited"]) == ["power_limit"]
    found = printed["limited"]["power_limit"]
    assert (found["verdict"], found["value"], found["unit"]) == ("attention", 400.0, "W")
    assert "700 W" in found["against"]
    uuid = "GPU-5f0c0000-aaaa-bbbb-cccc-dddddddddddd"
    assert found["remedy"] == f"sudo nvidia-smi -i {uuid} -pl 700"
    assert "above the default" in printed["raised"]["power_limit"]["found"]


def test_the_data_sheet_stands_in_where_the_driver_states_no_default(printed):
    found = printed["default unknown"]["power_limit"]
    assert found["verdict"] == "attention"
    assert "700 W (data sheet)" in found["against"]


@pytest.mark.parametrize("case, word", [("hot", "too hot"), ("braked", "power brake")])
def test_a_gpu_that_is_slowed_while_idle_is_wrong(printed, case, word):
    assert not_right(printed[case]) == ["idle_clocks"]
    found = printed[case]["idle_clocks"]
    assert found["verdict"] == "wrong" and word in found["found"]
    assert "cooling" in found["remedy"]


def test_the_clock_and_the_temperature_are_said(printed):
    found = printed["hot"]["idle_clocks"]
    assert "cores at 345 MHz of 1980" in found["found"] and "93 degrees" in found["found"]
    assert (found["value"], found["unit"]) == (345, "MHz")


def test_locked_clocks_need_attention_and_are_reset_by_the_remedy(printed):
    found = printed["locked"]["idle_clocks"]
    assert found["verdict"] == "attention" and "-rgc" in found["remedy"]


def test_without_persistence_mode_the_remedy_switches_it_on(printed):
    assert not_right(printed["not persistent"]) == ["persistence_mode"]
    found = printed["not persistent"]["persistence_mode"]
    assert found["verdict"] == "attention" and found["remedy"].endswith("-pm 1")


def test_errors_of_the_memory_are_wrong_and_counted(printed):
    found = printed["with errors"]["memory_errors"]
    assert (found["verdict"], found["value"]) == ("wrong", 3.0)
    assert printed["without ecc"]["memory_errors"]["verdict"] == "attention"
    assert printed["without ecc"]["memory_errors"]["value"] is None


def test_what_the_gpu_does_not_state_has_no_verdict(printed):
    silent = printed["silent"]
    named = ("persistence_mode", "memory_errors", "power_limit", "idle_clocks")
    assert [silent[name]["verdict"] for name in named] == [None] * 4
    assert [silent[name]["value"] for name in named] == [None] * 4


def test_a_sliced_gpu_is_wrong_and_has_no_stranger(printed):
    assert verdicts(printed["sliced"])["mig"] == "wrong"
    assert verdicts(printed["sliced"])["other_processes"] == "right"


def test_without_a_gpu_nothing_is_judged(printed):
    assert verdicts(printed["cpu"]) == {"gpu_setup": None}


def test_the_plan_fits_a_gpu_that_is_free_and_is_wrong_on_one_that_is_taken(printed):
    assert set(verdicts(printed["plan"]).values()) == {"right"}
    taken = printed["taken"]
    assert taken["plan_training"]["verdict"] == "wrong"
    assert "10.0 GiB free" in taken["plan_training"]["against"]
    assert "nothing else" in taken["plan_training"]["remedy"]


def test_a_plan_that_never_fits_says_what_would(printed):
    found = printed["small"]["plan_training"]
    assert found["verdict"] == "wrong"
    assert "training.micro_batch=" in found["remedy"]
    assert found["value"] > 79


def test_the_store_s_speed_is_held_against_what_the_gpu_makes_and_reads(printed):
    for name in ("store_write_speed", "store_read_speed"):
        found = printed["speed"][name]
        needed = float(found["against"].partition(" ")[0].replace(",", ""))
        assert found["verdict"] == ("right" if found["low"] >= needed else "attention")
