# The commands of README and CI. Each sets up .venv by itself the first time, and again when the pins change.

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# Any Python from 3.11 on: make PYTHON=python3.12 test
PYTHON ?= python3
# Processes that the tests run in.
JOBS ?= 2
TORCH := torch==2.13.0

.PHONY: reproduce smoke test test-long test-cluster test-gallery test-resume lint format setup clean-smoke

reproduce: $(INSTALLED)
	$(BIN)/snakemake --cores all

smoke: $(INSTALLED)
	$(BIN)/snakemake --cores all --configfile config/smoke.yaml

test: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile

test-long: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m long

# A SLURM of its own, as root: apt-get install slurm-wlm munge (done by itself). RL4VLM_WHOLE_SMOKE=1: the whole smoke run
test-cluster: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m long tests/cluster

# The gallery in a real browser: apt-get install chromium
test-gallery: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m long tests/gallery

# Trainings that are killed at random moments and go on
test-resume: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m long tests/ppo/test_resume_kill.py

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/snakefmt --check Snakefile workflow
	$(BIN)/snakemake --lint
	$(BIN)/lint-imports
	$(BIN)/mypy

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/snakefmt Snakefile workflow

# Forget the last smoke run, so that the next one runs every rule again.
clean-smoke:
	rm -rf results/smoke

setup: $(INSTALLED)

$(INSTALLED): pyproject.toml requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or later is needed; $(PYTHON) is $$($(PYTHON) --version). Try: make PYTHON=python3.12" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install $(TORCH)
	$(BIN)/pip install -r requirements.txt
	$(BIN)/pip install --no-deps -e .
	touch $@
