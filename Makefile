# Every target makes .venv when it is missing or older than pyproject.toml.
# Another interpreter: make PYTHON=python3.12 test

PYTHON ?= python3
BIN := .venv/bin
# Most tests wait for something, so that several at once save time, also on two cores.
PYTEST := $(BIN)/python -m pytest --numprocesses=4 --dist=worksteal
# What experiments do over SSH connections, beside the tests of these.
VERBS := $(wildcard tests/test_experiment_*.py) tests/test_boot_local.py
READY := .venv/.ready
READY_TO_BENCH := .venv/.ready-to-bench

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow test-all faults soak lint bench bench-full clean

help:
	@echo 'make demo      three instances on this machine: run, copy, and gone again'
	@echo 'make test      the tests, but for the slow ones; at most 5 minutes'
	@echo 'make test-all  all tests; at most 20 minutes'
	@echo 'make faults    hundreds of scripts are killed, cut off, cancelled: does anything leak?'
	@echo 'make soak      ten minutes of experiments that start and end: does anything grow?'
	@echo 'make lint      ruff and mypy'
	@echo 'make bench     the short set of benchmarks, and their charts; at most 6 minutes'
	@echo 'make bench-full  the full one; an hour'
	@echo 'make clean     remove .venv and all caches'

demo: $(READY)
	@$(BIN)/python examples/demo.py

test: $(READY)
	$(PYTEST) -m 'not slow'

test-slow: $(READY)
	$(PYTEST) -m slow
	PRECIP_TEST_SSH=public $(PYTEST) tests/ssh
	PRECIP_TEST_SSH=workers $(PYTEST) tests/ssh $(VERBS)

test-all: $(READY)
	$(PYTEST)
	PRECIP_TEST_SSH=public $(PYTEST) tests/ssh
	PRECIP_TEST_SSH=workers $(PYTEST) tests/ssh $(VERBS)

faults: $(READY)
	$(BIN)/python -m tests.faults $(FAULTS)

soak: $(READY)
	$(BIN)/python -m tests.soak $(SOAK)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(READY_TO_BENCH)
	$(BIN)/python benchmarks/bench.py

bench-full: $(READY_TO_BENCH)
	$(BIN)/python benchmarks/bench.py --full

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo 'precip_async needs Python 3.11 or newer; name one: make PYTHON=python3.12'; exit 1; }
	@echo 'Making .venv; that takes a minute or two ...'
	@$(PYTHON) -m venv .venv || { \
	    echo 'No .venv could be made (on Debian and Ubuntu: apt-get install python3-venv).'; exit 1; }
	@$(BIN)/python -m pip install --quiet --use-pep517 --disable-pip-version-check --editable '.[test,lint]'
	@touch $@

$(READY_TO_BENCH): $(READY)
	@echo 'Installing what precip_async is measured against ...'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[bench]'
	@command -v pdsh > /dev/null || echo 'pdsh is not there, and will be left out (apt-get install pdsh)'
	@touch $@
