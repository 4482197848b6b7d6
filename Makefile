# The commands used in README and CI. Each creates .venv if it is missing, and updates it when the pins change.

VENV := .venv
BIN := $(VENV)/bin
# Python 3.11, 3.12 or 3.13: make PYTHON=python3.12 test
PYTHON ?= python3
# The lock to install: cpu (the tested environment), or cuda (all extras, and torch with its CUDA libraries).
LOCK ?= cpu
INSTALLED := $(VENV)/.installed-$(LOCK)
# Package index of torch's small CPU build, which LOCK=cpu installs first. If it cannot be reached, pip uses its other
# sources; PyPI's torch is the CUDA build.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
TORCH := $(shell sed -n 's/.*"\(torch==[^"]*\)".*/\1/p' pyproject.toml)
# Number of test processes.
JOBS ?= 2
# How `make lock` resolves versions. It keeps the locked versions, unless you run: make lock UPGRADE=--upgrade
COMPILE := uv pip compile --quiet --generate-hashes --python-version 3.11 --python-platform x86_64-manylinux_2_28 \
	--custom-compile-command "make lock" $(UPGRADE)

# vLLM needs an older transformers than pyproject.toml pins, so it gets a separate environment.
VLLM := .venv-vllm
TORCHVISION := $(shell sed -n '/^torchvision==/p' requirements/vllm.in)

.PHONY: reproduce seeds lambda ablations points24 smoke base-models \
	test test-system test-long test-cluster test-alfworld test-base-models test-gallery test-image test-resume \
	test-sharing test-vllm torture gpu-check gpu-wheels lint format docs docs-site setup lock clean-smoke

reproduce: $(INSTALLED)
	$(BIN)/snakemake --cores all

# Three training seeds. Only this config writes README's table and docs/results.md.
seeds: $(INSTALLED)
	$(BIN)/snakemake --cores all --configfile config/seeds.yaml

# λ with thoughts in many wordings, the effect of single defects and choices, and Points24 with a longer warm start. Each
# writes a page, docs/results-lambda.md for one.
lambda ablations points24: $(INSTALLED)
	$(BIN)/snakemake --cores all --configfile config/$@.yaml

smoke: $(INSTALLED)
	$(BIN)/snakemake --cores all --configfile config/smoke.yaml

# Pre-trains the shipped base models again and replaces the shipped weights. It takes less than an hour on two cores.
SHIPPED := workflow/resources/base_model
base-models: $(INSTALLED)
	$(BIN)/snakemake --cores all --configfile config/pretrain.yaml -- results/pretrain/base_model/cards \
		results/pretrain/base_model/alfworld
	rm -rf $(SHIPPED)/cards $(SHIPPED)/alfworld
	cp -r results/pretrain/base_model/cards results/pretrain/base_model/alfworld $(SHIPPED)
	rm -f $(SHIPPED)/*/.snakemake_timestamp

test: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder

# Starts workflows, servers and training processes, and kills some of them.
test-system: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder -m "system and not long"

test-long: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m long

# Starts a SLURM cluster on this machine, as root; installs slurm-wlm and munge by itself. With RL4VLM_WHOLE_SMOKE=1 it
# also runs the whole smoke config on it.
test-cluster: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m long tests/cluster

# Compares our engine with the unmodified library on every official game, and checks the planner's solutions.
# RL4VLM_OFFICIAL_GAMES is the folder of the games.
test-alfworld: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) -m long tests/envs/alfworld -v --durations=0

# Repeats the first steps of the shipped base model's pre-training, and compares their losses with those on record.
test-base-models: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m long tests/base_model

# Opens the gallery in a real browser. Needs: apt-get install chromium
test-gallery: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m long tests/gallery

# Kills trainings at random moments and resumes them.
test-resume: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m long tests/ppo/test_resume_kill.py

# Packs an archive and rebuilds it elsewhere, and uses the workflow from its repository address (git maps GitHub's
# address to a local folder).
test-sharing: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m long tests/workflow/test_archive.py tests/workflow/test_deploy.py

# Builds the image on a substitute base and runs it, as root. Needs: apt-get install buildah mmdebstrap
test-image: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m long tests/containers

# Tests vLLM on the CPU, in an environment that it creates in .venv-vllm (4 GB). Compilation is turned off: it would
# take longer than all the tests, and it failed on a busy machine (docs/log.md, "sampling with vLLM").
test-vllm: $(VLLM)/.installed
	PYTHONPATH=tests/engine_environment TORCH_COMPILE_DISABLE=1 OMP_NUM_THREADS=1 $(VLLM)/bin/python -m pytest -m long tests/models/test_vllm_engine.py

$(VLLM)/.installed: requirements/vllm.txt
	test -x $(VLLM)/bin/pip || $(PYTHON) -m venv $(VLLM)
	@{ $(VLLM)/bin/pip install --no-deps --retries 1 --timeout 15 $(TORCH_INDEX:%=--extra-index-url %) $(TORCH) $(TORCHVISION) && \
		$(VLLM)/bin/pip install --no-deps --require-hashes -r requirements/vllm.txt; } || \
		{ echo "test-vllm: vLLM cannot be installed here; nothing was tested" >&2; exit 1; }
	$(VLLM)/bin/pip install --no-deps --no-build-isolation -e .
	touch $@

# Tries to break the project for hours, and writes docs/reliability.md. With RL4VLM_TORTURE=0.1 it takes a tenth of the
# time. Atheris has packages for few platforms only; without it, its checks are skipped.
RL4VLM_TORTURE ?= 1
TORTURE_RECORDS := results/torture/records.jsonl
torture: export RL4VLM_TORTURE := $(RL4VLM_TORTURE)
torture: $(INSTALLED)
	-$(BIN)/pip install --only-binary :all: -r requirements/atheris.in
	rm -f $(TORTURE_RECORDS)
	RL4VLM_TORTURE_RECORDS=$(TORTURE_RECORDS) OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "long or not long" tests/torture; \
		status=$$?; $(BIN)/python -m tests.torture.page $(TORTURE_RECORDS) > docs/reliability.md; exit $$status

# Checks and measures PPO on a GPU in about five minutes: make gpu-check LOCK=cuda. CHECK="--correctness" chooses parts.
# If your Python has torch and transformers, you need no .venv: python3 -m benchmarks.gpu_check
gpu-check: $(INSTALLED)
	$(BIN)/python -m benchmarks.gpu_check $(CHECK)

# Downloads the packages of gpu-check that are rarely installed beside torch, transformers and accelerate, into .wheels.
# Copy that folder with the checkout to a machine without a network. GPU_PYTHON is that machine's version of Python.
GPU_PYTHON ?= 3.12
WHEELS := annotated-types|cloudpickle|farama-notifications|gymnasium|peft|pydantic|pydantic-core|typing-.*
gpu-wheels: $(INSTALLED)
	$(BIN)/pip download --quiet --no-deps --only-binary=:all: --python-version $(GPU_PYTHON) --implementation cp \
		--platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 \
		--dest .wheels $$(sed -nE 's/^($(WHEELS))==([^ ;]+).*/\1==\2/p' requirements/cpu.txt)

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

define RULES_INTRO
# The rules

Written by `make docs` from the Snakefile: edit the rules, not this page.

The graph shows the rules that `all` needs under the default config. An arrow leads from a rule to each rule that uses
its output. `snakemake -n -p` lists every job with its command, and [sharing.md](sharing.md) shows how to draw all jobs.

A rule reruns if its inputs, its settings or the code of its stage have changed. An edit of a comment or a docstring
reruns nothing ([how](decisions/0005-staleness-by-meaning.md)). Every rule writes a log into `results/logs/`. The
config's `base_model` decides where a base model comes from: it is pre-trained here (rule `base_model`), copied
(`shipped_model`), downloaded (`download`), or used from its own folder.
endef
export RULES_INTRO

# Writes docs/rules.md from the Snakefile, and docs/settings.md from the settings classes. With a fixed hash seed, the
# lines of the graph keep their order.
docs: $(INSTALLED)
	{ printf '%s\n\n```mermaid\n' "$$RULES_INTRO"; \
	  PYTHONHASHSEED=0 $(BIN)/snakemake --workflow-profile none --forceall --rulegraph mermaid-js && \
	  printf '```\n\nWhat each rule does (`snakemake --list`):\n\n```\n' && \
	  $(BIN)/snakemake --workflow-profile none --list && \
	  printf '```\n'; } > docs/rules.md.new
	mv docs/rules.md.new docs/rules.md
	$(BIN)/rl4vlm settings-docs

# Builds a site from the documents: open site/index.html. The search needs a server (python -m http.server -d site).
# A broken link or reference is an error.
docs-site: $(INSTALLED)
	$(BIN)/mkdocs build --strict --quiet

# Deletes the last smoke run, so that the next one runs every job again.
clean-smoke:
	rm -rf results/smoke

setup: $(INSTALLED)

# Writes the locks from the pins in pyproject.toml. The CPU lock has the same versions as the CUDA lock, without torch.
# The third lists what ALFWorld on AI2-THOR needs in addition to the CUDA lock, and an older werkzeug that replaces that
# lock's. The fourth is the environment of `test-vllm`, without torch and the packages built for it, which come from
# another index.
TORCHES := torch torchvision torchaudio torchcodec
lock: $(INSTALLED)
	$(BIN)/$(COMPILE) pyproject.toml --all-extras --output-file requirements/cuda.txt
	$(BIN)/$(COMPILE) pyproject.toml --extra alfworld --extra dev --extra docs --extra slurm --extra smolvlm \
		--extra tensorboard --config-file requirements/cpu-torch.toml --constraints requirements/cuda.txt \
		--no-emit-package torch --output-file requirements/cpu.txt
	sed -nE 's/^([a-z0-9._-]+==[^ ]+) .*/\1/p' requirements/cuda.txt | grep -v '^werkzeug==' > .thor-constraints
	sed -nE 's/.*"alfworld(==[^"]+)".*/alfworld[vis]\1/p' pyproject.toml | $(BIN)/$(COMPILE) - \
		--constraints .thor-constraints $$(sed 's/==.*//; s/^/--no-emit-package /' .thor-constraints) \
		--output-file requirements/thor.txt
	rm .thor-constraints
	$(BIN)/$(COMPILE) pyproject.toml requirements/vllm.in --extra dev --overrides requirements/vllm-overrides.in \
		--config-file requirements/cpu-torch.toml $(TORCHES:%=--no-emit-package %) \
		--output-file requirements/vllm.txt

# If PYTHON is given but .venv has another Python version, stop instead of silently using that version.
ifneq ($(origin PYTHON),file)
minor = $(shell $(1) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
ifneq ($(wildcard $(BIN)/pip),)
ifneq ($(call minor,$(PYTHON)),$(call minor,$(BIN)/python))
$(error $(VENV) has Python $(call minor,$(BIN)/python), not $(PYTHON): rm -r $(VENV), or leave PYTHON out)
endif
endif
endif

# Everything is installed with hashes, except torch's CPU build. The build of ALFWorld's planner calls `python`, which
# some machines have only as python3, so .venv comes first on PATH. A .venv without pip was created while Debian's
# python3-venv was missing, so it is created again.
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
