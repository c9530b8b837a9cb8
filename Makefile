# Each target does all its own set-up on a fresh machine.
PYTHON ?= python3
BIN := .venv/bin
export HAYSTACK_TELEMETRY_ENABLED := False
export TOKENIZERS_PARALLELISM := false
# Tests and workers: tiny matrices gain nothing from threads, and lose much on a busy machine.
test test-all: export OMP_NUM_THREADS := 1
# Their folders lie in memory where it has room: an index syncs to its disk a hundred times. What is compiled is kept.
ROOMY := $(shell test -w /dev/shm && test "$$(df -k --output=avail /dev/shm | tail -1)" -gt 6000000 && echo /dev/shm)
test test-all: export TMPDIR := $(or $(ROOMY),$(TMPDIR),/tmp)
test test-all: export PYTHONDONTWRITEBYTECODE :=

.PHONY: quickstart test test-all check format

quickstart: .venv
	$(BIN)/retort quickstart

# A worker a core, a thread a worker. What is long (killed runs at random, whole examples) is `test-all`'s.
test: .venv
	$(BIN)/python -m pytest -n logical --dist worksteal

test-all: .venv
	$(BIN)/python -m pytest -n logical --dist worksteal -m ""

check: .venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python .ci/typecheck.py

format: .venv
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.venv: .venv/.installed

# torch first, alone and in the tested version: resolved with the rest, pip may choose another build of it.
.venv/.installed: pyproject.toml constraints.txt hatch_build.py hatch_editable.py
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet $(shell grep '^torch==' constraints.txt)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@
