PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=

.DEFAULT_GOAL := help

help: ## Show the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'
	@echo '  ARGS="..." passes settings on: make train ARGS="data=cluttered trainer.epochs=3"'

# Each stamp is as old as the last install of what it names.
$(VENV)/run: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "Python 3.10 or newer is needed: make PYTHON=python3.12 ..."; exit 2; }
	$(PYTHON) -m venv $(VENV)
	sh scripts/install.sh .
	@touch $@

$(VENV)/dev: $(VENV)/run
	sh scripts/install.sh '.[dev]'
	@touch $@

$(VENV)/play: $(VENV)/run
	sh scripts/install.sh '.[play]'
	@touch $@

setup: $(VENV)/run ## Make .venv with the pinned dependencies, and fetch MNIST
	$(BIN)/python scripts/download_mnist.py

train: $(VENV)/run ## Train the default experiment: rotated digits, similarity transformer
	$(BIN)/python scripts/train.py $(ARGS)

tensorboard: $(VENV)/run ## Serve all runs, with every step of every panel
	$(BIN)/tensorboard --logdir outputs --samples_per_plugin images=1000 $(ARGS)

play: $(VENV)/play ## Serve a page that rotates and spoils an image for the newest finished run; ARGS="outputs/RUN" chooses
	$(BIN)/python scripts/play.py $(ARGS)

benchmark: $(VENV)/dev ## Compare speed with torchvision, kornia and Lightning; write the tables
	$(BIN)/python scripts/benchmark.py $(ARGS)

results: $(VENV)/run ## Write the tables of README and docs/ from the runs that docs/results keeps
	$(BIN)/python scripts/results.py $(ARGS)

test: $(VENV)/dev ## Run the quick tests, on all cores; ARGS=--cov adds coverage, and nearly doubles the time
	$(BIN)/pytest -n auto --dist loadgroup $(ARGS)

test-all: $(VENV)/dev ## Run all tests, with coverage: also kills, SLURM, a browser, and every fuzzed input
	$(BIN)/pytest -n auto --dist loadgroup --runslow --cov --cov-fail-under=95 $(ARGS)

slurm: ## Install SLURM with apt-get, as root: the SLURM test of test-all needs it
	.ci/install-slurm

format: $(VENV)/dev ## Format the code and fix what the linter can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

check: $(VENV)/dev ## Check format, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

constraints: $(VENV)/dev ## Bring constraints.txt up to date
	$(BIN)/pip install --quiet uv
	@echo '# Versions that the tests pass with, for every Python from 3.10 on. Made by `make constraints`.' > constraints.txt
	$(BIN)/uv pip compile --quiet --universal --python-version 3.10 --all-extras --no-header --no-annotate pyproject.toml \
	  | grep -vE '^(nvidia|cuda|triton)' >> constraints.txt

clean: ## Remove .venv and all caches, but no run
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: help results setup train tensorboard play benchmark test test-all slurm format check constraints clean
