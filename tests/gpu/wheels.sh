#!/usr/bin/env bash
# Fetches what a borrowed machine with torch and transformers may lack, as wheels for Python 3.12:
#   tests/gpu/wheels.sh FOLDER
# About 3 MB; one package has no wheel of its own and is built here, as all but two are pure Python.
set -euo pipefail
folder=${1:?give a folder for the wheels}
python=${PYTHON:-python3}
"$python" -m pip wheel --quiet --no-deps --wheel-dir "$folder" antlr4-python3-runtime==4.9.3
"$python" -m pip download --quiet --no-deps --only-binary=:all: --dest "$folder" \
  --python-version 3.12 --implementation cp \
  --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 \
  hydra-core==1.3.8 omegaconf==2.3.1 hydra-submitit-launcher==1.2.0 submitit==1.5.4 \
  orjson==3.13.0 liger-kernel==0.8.5
ls -l "$folder"
