# Two commands on a fresh machine: `make demo` and `make test`. Each builds its own .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
WORKERS ?= 2
export JAX_PLATFORMS ?= cpu
export MPLBACKEND ?= Agg

.PHONY: demo test test-slow lint format bench clean

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

# One stamp per set of extras, redone when pyproject.toml changes.
$(VENV)/.%.stamp: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable ".[$*]"
	touch $@

demo: $(VENV)/.examples.stamp
	$(BIN)/python examples/demo.py

# Compiling dominates these tests: without XLA's optimisations they take about a quarter less.
test: $(VENV)/.test.stamp
	JAX_DISABLE_MOST_OPTIMIZATIONS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m "not slow" -q

# The second stage, which CI runs too: what takes long, asks in depth what a quicker test asks, or runs an example.
test-slow: $(VENV)/.test.stamp
	timeout 900 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m slow -q

lint: $(VENV)/.dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

format: $(VENV)/.dev.stamp
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.bench.stamp
	$(BIN)/python benchmarks/compare.py

clean:
	rm -rf $(VENV) .cache demo_output
