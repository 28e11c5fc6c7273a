# Every target sets up what it needs: Python 3.11 or newer, make and a package index suffice.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# The build of torch for the machine's own processor is what a bare, exact requirement gives where
# an index carries one; the rest of the training extra is then satisfied by it.
TORCH ?= torch==2.13.0

PIP := $(BIN)/pip install --quiet --disable-pip-version-check
# The compiled matcher (setup.py). Where a processor runs it and there is no C compiler, one comes
# from the index; -I, as pip hides what is installed from what it builds.
COMPILED := setup.py model/native/structures.py $(wildcard model/native/*.[ch])
ifeq ($(shell command -v $(CC)),)
ifneq ($(shell grep -m 1 -o avx512_vnni /proc/cpuinfo 2>/dev/null),)
COMPILER := $(PIP) ziglang
ZIG := $(abspath $(BIN))/python -I -m ziglang cc -target x86_64-linux-gnu
INSTALL := CC="$(ZIG)" LDSHARED="$(ZIG) -shared" $(PIP)
endif
endif
COMPILER ?= @true
# Python may have been built by a compiler of another name, which pip would look for.
INSTALL ?= CC="$(CC)" $(PIP)
COMPILE := $(BIN)/uv pip compile --quiet --python-version 3.11 \
	--python-platform x86_64-manylinux_2_28 --generate-hashes --no-emit-index-url --no-header \
	--annotation-style line

.DEFAULT_GOAL := help
.PHONY: help setup demo demo-train test test-device check format bench lock clean

help: ## Say what there is to make
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(VENV)/.ready ## Install everything into .venv

# All of it serves too, so this one stamps both.
$(VENV)/.ready: pyproject.toml $(COMPILED)
	$(PYTHON) -m venv $(VENV)
	$(COMPILER)
	$(PIP) '$(TORCH)'
	$(INSTALL) --editable '.[cpu,train,dev]'
	@touch $(VENV)/.serving $@

$(VENV)/.serving: pyproject.toml $(COMPILED)
	$(PYTHON) -m venv $(VENV)
	$(COMPILER)
	$(INSTALL) --editable '.[cpu]'
	@touch $@

demo: $(VENV)/.serving ## Index a drawn catalogue with the model that comes along; serve it
	$(BIN)/fashionbert demo

demo-train: setup ## The same with a model of its own, trained in a few minutes
	$(BIN)/fashionbert demo --train

# Each with one thread, as small networks gain nothing from more; one more than there are cores, as
# the one with the containers waits for most of its time.
WORKERS ?= $(shell expr 1 + `getconf _NPROCESSORS_ONLN`)
test: setup check ## Run all checks and tests
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(WORKERS)

# Beside the suite, as it wants a C++ compiler: CXX, or c++.
ON_DEVICE := $(addprefix tests/model/test_,train.py train_failures.py train_resume.py \
	train_start.py train_tasks.py validate.py evaluate_checkpoint.py distillation.py inputs.py \
	inputs_shared.py)
test-device: setup ## Run training's tests on a pretended GPU (tests/pretended_gpu)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -p tests.pretended_gpu.plugin $(ON_DEVICE)

check: setup ## Lint, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Parts and options: make bench BENCH="rerank-library limit" BENCH_OPTIONS="--rounds 3".
BENCH ?= all
BENCH_OPTIONS ?=
bench: setup ## Measure against peers, write docs/BENCHMARKS.md (hours)
	$(BIN)/python -m benchmarks $(BENCH) $(BENCH_OPTIONS)

lock: setup ## Lock what the images install (requirements/)
	$(PIP) uv
	$(COMPILE) --extra cpu pyproject.toml -o requirements/cpu.txt
	$(COMPILE) --extra gpu pyproject.toml -o requirements/gpu.txt
	printf 'setuptools>=77\nziglang\n' | $(COMPILE) - -o requirements/build.txt

clean: ## Remove the environment and what make demo made
	rm -rf $(VENV) demo
