# Every target sets up what it needs: Python 3.11 or newer, make and a package index suffice.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# The build of torch for the machine's own processor is what a bare, exact requirement gives where
# an index carries one; the rest of the training extra is then satisfied by it.
TORCH ?= torch==2.13.0

COMPILE := $(BIN)/uv pip compile --quiet --python-version 3.11 \
	--python-platform x86_64-manylinux_2_28 --generate-hashes --no-emit-index-url --no-header \
	--annotation-style line

.DEFAULT_GOAL := help
.PHONY: help setup demo test check format lock clean

help: ## Say what there is to make
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(VENV)/.ready ## Install everything into .venv

$(VENV)/.ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check '$(TORCH)'
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[cpu,train,dev]'
	@touch $@

demo: setup ## Make a catalogue, train, export, index and serve on http://127.0.0.1:8080
	$(BIN)/fashionbert demo

test: setup check ## Run all checks and tests
	$(BIN)/pytest

check: setup ## Lint, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: setup ## Lock what the images install (requirements/)
	$(BIN)/pip install --quiet --disable-pip-version-check uv
	$(COMPILE) --extra cpu pyproject.toml -o requirements/cpu.txt
	$(COMPILE) --extra gpu pyproject.toml -o requirements/gpu.txt
	echo "setuptools>=77" | $(COMPILE) - -o requirements/build.txt

clean: ## Remove the environment and what make demo made
	rm -rf $(VENV) demo
