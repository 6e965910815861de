# make demo   the main job: a small ablation on real images, its table and its report
# make test   the unit and end-to-end tests; SELECT='-m "not exhaustive"' adds those that CI runs, SELECT= all others
# make test-faults   kills, signals and full disks at random moments, for an hour or two; SIMSIAM_FAULTS=10,4,4 for fewer
# make lint   format, lint, types, import floors
# Each installs what it needs into .venv first.  PYTHON=python3.12 make demo  takes another interpreter.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# What `make test` and `make lint` install beside the package; CI adds torch, for the parity tests.
EXTRAS ?= test
# Most of the tests' time is XLA compiling, on one core; tests/conftest.py says which of them stay together.
WORKERS := --numprocesses=2 --dist=loadgroup --no-loadscope-reorder
SELECT ?= -m "not slow and not faults"
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.PHONY: demo test test-faults lint format clean

demo: $(VENV)/run.installed
	$(BIN)/python -m experiments.demo $(ARGS)

test: $(VENV)/$(EXTRAS).installed
	$(BIN)/python -m pytest $(WORKERS) $(SELECT) $(ARGS)

test-faults: $(VENV)/$(EXTRAS).installed
	$(BIN)/python -m pytest $(WORKERS) -m "faults or slow" tests/faults $(ARGS)

lint: $(VENV)/$(EXTRAS).installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports --config setup.cfg

format: $(VENV)/$(EXTRAS).installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) runs

$(VENV)/run.installed: setup.cfg constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "simsiam_jax needs Python 3.11 or newer: make PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --constraint constraints.txt --editable .
	touch $@

$(VENV)/$(EXTRAS).installed: $(VENV)/run.installed
	$(PIP) install --constraint constraints.txt --editable ".[$(EXTRAS)]"
	touch $@
