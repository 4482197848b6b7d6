# The commands of README and CI. Each sets up .venv by itself the first time, and again when the pins change.

VENV := .venv
BIN := $(VENV)/bin
# Python 3.11, 3.12 or 3.13: make PYTHON=python3.12 test
PYTHON ?= python3
# Which lock is installed: cpu (the tested environment), or cuda (everything, and torch with its CUDA libraries).
LOCK ?= cpu
INSTALLED := $(VENV)/.installed-$(LOCK)
# Where the small torch comes from that LOCK=cpu installs first; where it cannot be reached, torch is the one of pip's
# other sources: on PyPI that for CUDA.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
TORCH := $(shell sed -n 's/.*"\(torch==[^"]*\)".*/\1/p' pyproject.toml)
# Processes that the tests run in.
JOBS ?= 2
# How `make lock` asks for wheels; what stands in a lock stays as it is, unless: make lock UPGRADE=--upgrade
COMPILE := uv pip compile --quiet --generate-hashes --python-version 3.11 --python-platform x86_64-manylinux_2_28 \
	--custom-compile-command "make lock" $(UPGRADE) pyproject.toml

.PHONY: reproduce smoke test test-long test-cluster test-alfworld test-gallery test-image test-resume test-sharing lint format docs \
	setup lock clean-smoke

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

# Every official game against the unchanged library, and the planner's solutions: RL4VLM_OFFICIAL_GAMES names their folder.
test-alfworld: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) -m long tests/envs/alfworld -v --durations=0

# The gallery in a real browser: apt-get install chromium
test-gallery: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m long tests/gallery

# Trainings that are killed at random moments and go on
test-resume: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m long tests/ppo/test_resume_kill.py

# The archive, made by the workflow and rebuilt elsewhere; the workflow by its address (git takes GitHub's for a folder)
test-sharing: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m long tests/workflow/test_archive.py tests/workflow/test_deploy.py

# The image, built on a stand-in base and tried, as root: apt-get install buildah mmdebstrap
test-image: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m long tests/containers

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/snakefmt --check Snakefile workflow
	$(BIN)/snakemake --lint
	$(BIN)/lint-imports
	$(BIN)/mypy
	$(BIN)/hadolint Dockerfile

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/snakefmt Snakefile workflow

# The page about the rules and its picture, from the Snakefile; the page about settings, from their classes.
docs: $(INSTALLED)
	$(BIN)/rl4vlm settings-docs
	$(BIN)/rl4vlm rule-docs

# Forget the last smoke run, so that the next one runs every rule again.
clean-smoke:
	rm -rf results/smoke

setup: $(INSTALLED)

# The locks from the pins in pyproject.toml. The one for CPU takes its versions from the other and leaves torch out.
lock: $(INSTALLED)
	$(BIN)/$(COMPILE) --all-extras --output-file requirements/cuda.txt
	$(BIN)/$(COMPILE) --extra alfworld --extra dev --extra slurm --extra smolvlm --extra tensorboard \
		--config-file requirements/cpu-torch.toml --constraints requirements/cuda.txt --no-emit-package torch \
		--output-file requirements/cpu.txt

# Asked for by name, a Python is not silently the other one that .venv was made with.
ifneq ($(origin PYTHON),file)
minor = $(shell $(1) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
ifneq ($(wildcard $(BIN)/pip),)
ifneq ($(call minor,$(PYTHON)),$(call minor,$(BIN)/python))
$(error $(VENV) has Python $(call minor,$(BIN)/python), not $(PYTHON): rm -r $(VENV), or leave PYTHON out)
endif
endif
endif

# Everything comes with a hash but the CPU's torch. The build of ALFWorld's planner calls `python`, which a machine may
# know as python3 alone: so .venv comes first on PATH. A .venv without pip is one that lacked Debian's python3-venv.
$(INSTALLED): pyproject.toml requirements/$(LOCK).txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || \
		{ echo "Python 3.11 to 3.13 is needed; $(PYTHON) is $$($(PYTHON) --version). Try: make PYTHON=python3.12" >&2; exit 1; }
	test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
ifeq ($(LOCK),cpu)
	$(BIN)/pip install --no-deps --retries 1 --timeout 15 $(TORCH_INDEX:%=--extra-index-url %) $(TORCH)
endif
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/pip install --no-deps --require-hashes -r requirements/$(LOCK).txt
	$(BIN)/pip install --no-build-isolation -e .
	touch $@
