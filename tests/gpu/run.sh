#!/usr/bin/env bash
# What a borrowed NVIDIA GPU can show in some minutes, with no network:
#   tests/gpu/run.sh [--minutes 9] [--wheels FOLDER] [--parts "facts counter ..."] [--rehearse] OUT
# Needs Python 3.12 with torch for CUDA and transformers; tests/gpu/wheels.sh fetches the rest.
# Each part is a process of its own. A part that runs out of time is ended, and what is done stays:
# OUT has at most eight files. --rehearse takes small sizes, and the CPU where there is no GPU.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

minutes=9 wheels='' rehearse='' out=''
parts='facts counter sweep head cached online tests compiled'
while (($#)); do
  case $1 in
    --minutes) minutes=$2; shift ;;
    --wheels) wheels=$2; shift ;;
    --parts) parts=$2; shift ;;
    --rehearse) rehearse=1 ;;
    *) out=$1 ;;
  esac
  shift
done
[[ $out ]] || { echo 'run.sh: no folder for the records was given; name one' >&2; exit 2; }

python=${PYTHON:-python3}
end=$((SECONDS + minutes * 60))
mkdir -p "$out"
out=$(cd "$out" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
if [[ $wheels ]]; then
  "$python" -m pip install --quiet --no-index --no-deps --no-compile --no-cache-dir --upgrade \
    --target "$work/site" "$wheels"/*.whl || exit
  export PYTHONPATH=$work/site:$PWD
else
  export PYTHONPATH=$PWD
fi
export HF_HUB_OFFLINE=1 OMP_WAIT_POLICY=passive PYTHONUNBUFFERED=1 KDWATTS_STORE=$work/store

size=() shape=(gpu=auto) scale=1 seeds=0,1
if [[ $rehearse ]]; then
  size=(--small) shape=(model=tiny gpu=auto --steps 3) scale=0.1 seeds=0
  export KDWATTS_REHEARSE_GPU=1
fi

# part NAME MOST_SECONDS COMMAND ...: ended with SIGTERM when its own time or that of all is over.
part() {
  local name=$1 most=$2 left=$((end - SECONDS)) began=$SECONDS status=0
  shift 2
  [[ " $parts " == *" $name "* ]] || return 0
  if ((left < 15)); then
    echo "run.sh: $name was left out, $left s were left" | tee -a "$out/log.txt"
    return 0
  fi
  echo "run.sh: $name" >>"$out/log.txt"
  ((most < left - 8)) || most=$((left - 8))
  timeout --kill-after=10 "$most" "$@" >"$work/told" 2>&1 || status=$?
  tail -c 6000 "$work/told" >>"$out/log.txt"
  echo "run.sh: $name took $((SECONDS - began)) s, status $status" | tee -a "$out/log.txt"
}

# The first word sweeps slowest: cut short, there is every paradigm with the first seed.
sweep=(
  "$python" -m kdwatts -m training.seed=$seeds paradigm=sft,response,feature,relational
  gpu=auto eval=tiny 'eval.tasks=[]' eval.inference.min_window_s=2.5 telemetry.idle_s=3
  hydra.sweep.dir="$work/sweep"
)

step() {
  local name=$1 most=$2
  shift 2
  part "$name" "$most" "$python" tests/bench/step_mfu.py "${shape[@]}" \
    --micro-batches 4 --out "$work" --name "$name" "$@"
}

part facts 60 "$python" tests/gpu/facts.py "$out"
part counter 170 "$python" tests/gpu/counter.py "$out" --scale $scale
part sweep 240 "${sweep[@]}"
if [[ -d $work/sweep ]]; then
  tar -C "$work" --exclude=student -czf "$out/sweep.tar.gz" sweep
fi
part head 100 "$python" tests/bench/head_on_gpu.py "${size[@]}" --out "$out"
step cached 90 --signals cached
step online 90 --signals online
# Apart, as a test that uses the GPU would look like a stranger to the runs of the others.
for file in losses runs; do
  part tests 120 "$python" -m pytest tests/gpu/test_${file}_on_gpu.py -q -p no:cacheprovider
done
step compiled 150 --signals cached training.compile=true
steps=("$work"/step-*.json)
if [[ -e ${steps[0]} ]]; then
  "$python" - "$out/steps.json" "${steps[@]}" <<'PY'
import json, sys
from pathlib import Path
names = {Path(path).stem.removeprefix("step-"): path for path in sys.argv[2:]}
records = {name: json.loads(Path(path).read_text()) for name, path in names.items()}
Path(sys.argv[1]).write_text(json.dumps(records, indent=1))
PY
fi
ls -l "$out"
