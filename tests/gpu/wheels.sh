#!/usr/bin/env bash
# Fetches what a borrowed machine with torch and transformers may lack, as wheels for Python 3.12:
#   tests/gpu/wheels.sh FOLDER
# About 9 MB. One package has no wheel of its own and is built here, of pure Python.
# TRL and Liger are what the head is measured beside. pandas, pyarrow and scipy are not needed.
set -euo pipefail
folder=${1:?give a folder for the wheels}
python=${PYTHON:-python3}
"$python" -m pip wheel --quiet --no-deps --wheel-dir "$folder" antlr4-python3-runtime==4.9.3
"$python" -m pip download --quiet --no-deps --only-binary=:all: --dest "$folder" \
  --python-version 3.12 --implementation cp --abi cp312 --abi abi3 --abi none \
  --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 \
  --platform manylinux2014_x86_64 --platform manylinux_2_12_x86_64 --platform manylinux2010_x86_64 \
  hydra-core==1.3.8 omegaconf==2.3.1 hydra-submitit-launcher==1.2.0 submitit==1.5.4 \
  cloudpickle==3.1.3 orjson==3.13.0 psutil==7.2.2 nvidia-ml-py==13.615.71 \
  aiohttp==3.14.5 aiohappyeyeballs==2.7.1 aiosignal==1.4.0 attrs==26.1.0 frozenlist==1.8.0 \
  multidict==7.2.1 propcache==0.5.4 yarl==1.25.1 \
  prometheus-client==0.26.0 accelerate==1.15.0 peft==0.21.2 \
  pytest==9.2.0 pluggy==1.7.0 iniconfig==2.3.1 pygments==2.21.0 \
  liger-kernel==0.8.5 trl==1.16.0
ls -l "$folder"
