#!/usr/bin/env bash
# What a borrowed NVIDIA GPU can show in some minutes, with no network:
#   tests/gpu/run.sh [--minutes 9] [--max-mib 40] [--wheels FOLDER] [--parts "facts doctor ..."]
#                    [--doctor-minutes 3] [--rehearse] OUT
# Needs Python 3.12 with torch for CUDA and transformers; tests/gpu/wheels.sh fetches the rest.
# Each part is a process of its own. A part that runs out of time is ended, and what is done stays.
# What is worth most comes first. Seconds that a part is thought to take on an H200, and its most:
#   facts 20, 60           doctor 180, 240            tests 60, 90 (four files at once)
#   head 150, 260 (ours 50, Liger 60, TRL 20, dense 20)
#   cached 45, 70          cached_compiled 100, 120   online_compiled 140, 180   online 55, 80
#   sweep 25 a run, 200    run_tests 200, 360         kept_compiled 85, 120
# Nine minutes reach to the heads and a part of the sweep. In two loans, of 5 and 9 minutes:
#   --parts "facts tests head cached"
#   --parts "doctor cached_compiled online_compiled sweep"
# OUT has at most eight files of --max-mib in all; the largest is left out when they are more.
# --rehearse takes small sizes, and the CPU where there is no GPU.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

minutes=9 doctor_minutes=3 max_mib=40 wheels='' rehearse='' out=''
parts='facts doctor tests head cached cached_compiled online_compiled'
parts+=' online sweep run_tests kept_compiled'
while (($#)); do
  case $1 in
    --minutes) minutes=$2; shift ;;
    --doctor-minutes) doctor_minutes=$2; shift ;;
    --max-mib) max_mib=$2; shift ;;
    --wheels) wheels=$2; shift ;;
    --parts) parts=$2; shift ;;
    --rehearse) rehearse=1 ;;
    -*) echo "run.sh: there is no option $1; the options are at the head of this file" >&2; exit 2 ;;
    *) out=$1 ;;
  esac
  shift
done
[[ $out ]] || { echo 'run.sh: no folder for the records was given; name one' >&2; exit 2; }

python=${PYTHON:-python3}
end=$((SECONDS + minutes * 60))
# Seconds kept for the sweep, which alone shows whole runs: a ninth of all.
later=0
[[ " $parts " != *' sweep '* ]] || later=$((minutes * 7))
mkdir -p "$out"
out=$(cd "$out" && pwd)
work=$(mktemp -d) child='' keeper=''
tidy() {
  [[ ! $child ]] || kill -KILL -- "-$child" 2>/dev/null
  [[ ! $keeper ]] || kill "$keeper" 2>/dev/null
  rm -rf "$work"
}
trap tidy EXIT
trap 'exit 143' INT TERM
if [[ $wheels ]]; then
  "$python" -m pip install --quiet --no-index --no-deps --no-compile --no-cache-dir --upgrade \
    --target "$work/site" "$wheels"/*.whl || {
    # Some environments have no pip. These wheels need no more than to be unpacked.
    rm -rf "$work/site"
    for wheel in "$wheels"/*.whl; do
      "$python" -m zipfile -e "$wheel" "$work/site" || exit
    done
  }
  export PYTHONPATH=$work/site:$PWD
else
  export PYTHONPATH=$PWD
fi
export HF_HUB_OFFLINE=1 OMP_WAIT_POLICY=passive PYTHONUNBUFFERED=1 KDWATTS_STORE=$work/store
export KDWATTS_GPU_TESTS=$out/tests.jsonl TRITON_CACHE_DIR=$work/triton
# Code that one part compiled is there for the next.
export TORCHINDUCTOR_CACHE_DIR=$work/inductor HF_HOME=$work/huggingface
[[ -w ${HOME:-} ]] || export HOME=$work  # A library's cache that is not named above.
# Plugins of the borrowed environment may warn or fail, which is no news of this package.
export PYTEST_DISABLE_PLUGIN_AUTOLOAD=1

size=() shape=(gpu=auto) runs=() pair=() seeds=0,1 steps=8
if [[ $rehearse ]]; then
  size=(--small) shape=(model=tiny gpu=auto) runs=(training=smoke) pair=(--model tiny) seeds=0 steps=3
  export KDWATTS_REHEARSE_GPU=1
fi

say() { echo "run.sh: $*" | tee -a "$out/log.txt"; }

# The tables of what there is, and no more bytes than may be taken home.
keep() {
  local largest
  rm -f "$out"/.*.tmp  # Of a part that was ended while it wrote.
  "$python" tests/gpu/tables.py "$out" >"$work/tables.md" && cp "$work/tables.md" "$out/tables.md"
  while (($(find "$out" -type f -printf '%s + ')0 > max_mib * 1048576)); do
    largest=$(ls -S "$out" | grep -v -x -e log.txt -e tables.md | head -n 1)
    [[ $largest ]] || break
    rm "$out/$largest"
    say "$largest was left out, the records were more than $max_mib MiB"
  done
}

# Waits up to 10 s until the driver has let go of what a part held that did not end by itself.
release() {
  local until=$((SECONDS + 10)) held
  command -v nvidia-smi >/dev/null || return 0
  while ((SECONDS < until)); do
    held=$(timeout 5 nvidia-smi --query-compute-apps=pid,name,used_memory \
      --format=csv,noheader 2>&1)
    [[ $held ]] || return 0
    sleep 0.5
  done
  say "the GPU is still held: $held"
}

# part NAME MOST_SECONDS COMMAND ...: ended with SIGTERM when its own time or that of all is over.
least=15
part() {
  local name=$1 most=$2 left=$((end - SECONDS - later)) began=$SECONDS status=0
  shift 2
  [[ " $parts " == *" $name "* ]] || return 0
  if ((left < least)); then
    say "$name was left out, $((left > 0 ? left : 0)) s were left"
    return 0
  fi
  echo "run.sh: $name" >>"$out/log.txt"
  ((most < left - 8)) || most=$((left - 8))
  # No file but its own output is the child's: what it leaves behind must not hold this script.
  timeout --kill-after=6 "$most" "$@" >"$work/told" 2>&1 </dev/null &
  child=$!
  wait "$child" 2>/dev/null || status=$?
  # `timeout` leads a group. A run in it that ends at its next step would be a stranger on the GPU.
  kill -KILL -- "-$child" 2>/dev/null
  child=''
  tail -c 6000 "$work/told" >>"$out/log.txt"
  say "$name took $((SECONDS - began)) s, status $status"
  ((status == 0)) || release
  keep
}

step() {
  local name=$1 most=$2 least=30  # In less there is no timed step.
  shift 2
  part "$name" "$most" "$python" tests/bench/step_mfu.py "${shape[@]}" --steps $steps \
    --micro-batches 4 --out "$work" --name "$name" "$@"
  [[ ! -e $work/step-$name.json ]] || "$python" - "$out/steps.json" "$work" <<'PY'
import json, sys
from pathlib import Path
from kdwatts.records.files import write_json
path = Path(sys.argv[1])
records = json.loads(path.read_text()) if path.is_file() else {}  # Of a call before this one.
found = sorted(Path(sys.argv[2]).glob("step-*.json"), key=lambda path: path.stat().st_mtime)
records |= {path.stem.removeprefix("step-"): json.loads(path.read_text()) for path in found}
write_json(path, records)
PY
  keep
}

# Without persistence mode, the driver would start anew for each part, which takes seconds.
"$python" - >/dev/null 2>&1 <<'PY' &
import pynvml, time
pynvml.nvmlInit()
gpus = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
time.sleep(3600)
PY
keeper=$!
[[ " $parts " != *' tests '* ]] || rm -f "$KDWATTS_GPU_TESTS"
part facts 60 "$python" tests/gpu/facts.py "$out"
# It exits with 1 where something is wrong.
part doctor $((60 * doctor_minutes + 60)) "$python" -m kdwatts.doctor "${pair[@]}" \
  --minutes "$doctor_minutes" --out "$out"
# A process for each file, so that a hang of one leaves the others. What reads joules runs alone,
# and so do tests of whole runs: a test that uses the GPU would look like a stranger to them.
pytest=("$python" -m pytest -q -m gpu -p no:cacheprovider -o faulthandler_timeout=60)
pytest+=(-o filterwarnings=default)  # Of the borrowed environment's libraries.
together=() alone=() compiling=()
for file in tests/gpu/test_*_on_gpu.py; do
  case $file in
    *compile*) compiling+=("$file") ;;
    *meter* | *runs*) alone+=("$file") ;;
    *) together+=("$file") ;;
  esac
done
printf '%s\n' "${together[@]}" >"$work/together"
part tests 90 xargs --arg-file="$work/together" --max-args=1 \
  --max-procs=$((($(nproc) + 3) / 4)) "${pytest[@]}"
part head 80 "$python" tests/bench/head_on_gpu.py "${size[@]}" --heads ours --out "$out"
part head 80 "$python" tests/bench/head_on_gpu.py "${size[@]}" --heads liger --out "$out"
for subject in trl dense; do
  part head 50 "$python" tests/bench/head_on_gpu.py "${size[@]}" --heads $subject --out "$out"
done
step cached 70 --signals cached training.compile=false
step cached_compiled 120 --signals cached training.compile=true
step online_compiled 180 --signals online training.compile=true
step online 80 --signals online training.compile=false

later=0
# The last word changes fastest: a sweep that is cut off has every paradigm with the first seed.
part sweep 200 "$python" -m kdwatts -m training.seed=$seeds \
  paradigm=sft,response,feature,relational "${runs[@]}" \
  gpu=auto eval=tiny 'eval.tasks=[]' eval.inference.min_window_s=2.5 telemetry.idle_s=3 \
  hydra.sweep.dir="$work/sweep"
if [[ -d $work/sweep ]]; then
  tar -C "$work" --exclude=student -czf "$work/sweep.tar.gz" sweep
  mv "$work/sweep.tar.gz" "$out/"
fi
# Where minutes are left: runs that are killed, metered and compiled, the longest last.
for file in "${alone[@]}"; do
  part run_tests 110 "${pytest[@]}" "$file"
done
part run_tests 140 "${pytest[@]}" "${compiling[@]}"
# What memory for all activations saves.
step kept_compiled 120 --signals cached training.compile=true training.gradient_checkpointing=false
keep
ls -l "$out"
