# The playbook in two commands: `make play` and `make test`. There is no `make clean`: runs are yours to delete.
# Everything is installed into .venv, once; requirements.txt or pyproject.toml newer than the stamp installs again.

PYTHON ?= python3
RUN ?=
PROFILE ?=
SEED ?=
ARGS ?=

VENV := .venv
BIN := $(VENV)/$(if $(filter Windows_NT,$(OS)),Scripts,bin)
STAMP := $(VENV)/.installed
ONLY ?=
OUT ?=
OPTIONS = $(if $(PROFILE),--profile '$(PROFILE)') $(if $(SEED),--seed '$(SEED)') $(if $(RUN),--run '$(RUN)') $(ARGS)

.DEFAULT_GOAL := help
.PHONY: help venv model redteam play smoke deep lab report verify need-run pack bench gpu-check test lint

help:
	@echo "make play      install, fetch the embedded model, run notebooks 00-08, write the report"
	@echo "               RUN=<run_id> goes on where a run stopped; PROFILE=cpu|t4|gpu24|gpu80|auto; SEED=17"
	@echo "               ARGS=\"--only 02_sft --set beta=0.2\" goes to: python -m ftlib run --help"
	@echo "make smoke     the same in minutes, with a few steps a notebook: proves the wiring, no evidence"
	@echo "make deep      RUN=<run_id>: the notebooks of notebooks/deep over a finished run; ARGS=\"--only 01a\" picks"
	@echo "make lab       JupyterLab at notebooks/00_start_here.ipynb"
	@echo "make report    RUN=<run_id>: write report.html again"
	@echo "make verify    RUN=<run_id>: are the ledger and the artifacts as they were made?"
	@echo "make pack      RUN=<run_id>: one evidence pack (zip with hashes, no weights)"
	@echo "make bench     ONLY=speed OUT=file.json: check what the playbook promises, again"
	@echo "make gpu-check the speed benchmark on a GPU, larger models too; OUT=file.json (default gpu-check.json)"
	@echo "make redteam   optional: red-team sets of others (13 MB, read as files) for 05a and the benchmark model_gates"
	@echo "make test      all tests; ARGS=\"-m 'not browser'\" goes to pytest"
	@echo "make lint      ruff, check and format"
	@echo "PYTHON=python3.12 make …   takes another Python (3.11 or later) for .venv"

venv: $(STAMP)

$(STAMP): requirements.txt constraints.txt pyproject.toml
	@command -v "$(PYTHON)" >/dev/null || { echo "No '$(PYTHON)' here. Install Python 3.11 or later, or say which: PYTHON=/path/to/python3 make"; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or later is needed; '$(PYTHON)' is $$("$(PYTHON)" -V 2>&1). Say which to take: PYTHON=python3.11 make"; exit 1; }
	"$(PYTHON)" -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -r requirements.txt
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps -e .
	@touch $(STAMP)

model: $(STAMP)
	$(BIN)/python -m ftlib model

redteam: $(STAMP)
	$(BIN)/python -m pip install --disable-pip-version-check --no-deps --no-compile --upgrade --target $(VENV)/redteam -r requirements-redteam.txt

play: model
	$(BIN)/python -m ftlib run $(OPTIONS)

smoke: PROFILE = smoke
smoke: model
	$(BIN)/python -m ftlib run $(OPTIONS)

deep: need-run $(STAMP)
	$(BIN)/python -m ftlib run --deep $(OPTIONS)

lab: $(STAMP)
	$(BIN)/jupyter lab notebooks/00_start_here.ipynb

report verify pack: need-run $(STAMP)
	$(BIN)/python -m ftlib $@ '$(RUN)'

need-run:
	@test -n '$(RUN)' || { echo "Say which run: make $(MAKECMDGOALS) RUN=<run_id> (a folder of papermill_runs/)"; exit 1; }

bench: model
	$(BIN)/python -m benchmarks $(ONLY) $(if $(OUT),--out '$(OUT)')

gpu-check: model
	@$(BIN)/python -c 'import torch, sys; sys.exit(not torch.cuda.is_available())' || { echo "No CUDA GPU here, or a torch without CUDA: nothing to check"; exit 1; }
	$(BIN)/python -m benchmarks speed --out '$(or $(OUT),gpu-check.json)'

test: $(STAMP)
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder $(ARGS)

lint: $(STAMP)
	$(BIN)/ruff check ftlib tests notebooks benchmarks
	$(BIN)/ruff format --check ftlib tests notebooks benchmarks
