# Everything a newcomer runs. The first target that needs it makes .venv; the rest is quick.
PYTHON ?= python3
TORCH ?= torch==2.13.0
VENV := .venv
RUN := $(VENV)/bin/python
PIP := $(RUN) -m pip install --quiet --disable-pip-version-check
SET_UP := $(VENV)/.set-up
# One process per core, one thread per process.
TEST_PROCESSES ?= $(shell getconf _NPROCESSORS_ONLN | awk '{print ($$1 > 8 ? 8 : $$1)}')
PYTEST := OMP_NUM_THREADS=1 $(RUN) -m pytest -n $(TEST_PROCESSES)

.PHONY: setup quickstart test test-parity check bench clean

setup: $(SET_UP)

# A torch that Python already has (say, one built for this machine's GPU) is used as it is.
$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and \
		"TATS needs Python 3.10 or newer: make PYTHON=python3.11 …")'
	@if $(PYTHON) -c 'import torch' 2>/dev/null; \
	then $(PYTHON) -m venv --system-site-packages $(VENV); \
	else $(PYTHON) -m venv $(VENV); fi

# The constraint keeps every other package from exchanging the torch that is there.
$(SET_UP): setup.py tats/sampling/engines/cpu_step.cpp $(VENV)/bin/python
	@echo "Setting up $(VENV): a minute or two"
	@$(RUN) -W ignore -c 'import torch' 2>/dev/null || $(PIP) '$(TORCH)'
	@$(RUN) -W ignore -c 'import torch; print("torch==" + torch.__version__)' > $(VENV)/constraints.txt
	@$(PIP) -c $(VENV)/constraints.txt -e '.[dev]'
	@$(RUN) scripts/fetch_weights.py
	@touch $@

# Without a wheel for this Python the demo data are cut from films instead, and say so. The games'
# own requirements are named here because theirs would bring another numpy.
GAMES := procgen-mirror==0.10.7 gym3 gym==0.26.2 gym-notices glcontext cloudpickle moderngl cffi \
	pycparser filelock
$(VENV)/.games: $(SET_UP)
	@$(PIP) -c $(VENV)/constraints.txt --no-deps --only-binary=procgen-mirror $(GAMES) \
		|| echo "The games have no build for this Python"
	@touch $@

quickstart: $(VENV)/.games
	$(RUN) scripts/quickstart.py

test: $(SET_UP)
	$(PYTEST)

# In one process: the table of differences is that of the whole session.
test-parity: $(SET_UP)
	OMP_NUM_THREADS=1 $(RUN) -m pytest tests/parity --parity-report docs/REPRODUCING.md

check: $(SET_UP)
	$(RUN) -m ruff check .
	$(RUN) -m mypy -p tats
	$(RUN) -m mypy *.py scripts/*.py
	$(RUN) -m pytest -q tests/unit/test_architecture.py

bench: $(SET_UP)
	for benchmark in benchmarks/bench_*.py; do $(RUN) $$benchmark || exit 1; done

clean:
	rm -rf build *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis lightning_logs
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
