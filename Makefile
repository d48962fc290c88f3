# The doors of the house. `make` lists them.
.DEFAULT_GOAL := help
.PHONY: help run test test-fast test-browser manifests chaos bench bench-quick containers lint format lock venv

SHELL := /bin/sh
PYTHON := .venv/bin/python

help: ## list these doors
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' Makefile

run: venv ## start everything on this machine (API_PORT, PROVIDER_PORT, DISPATCH_WORKERS, LOCAL_DIR)
	@$(PYTHON) -m dev.stack run --die-with-parent

test: venv ## the whole test suite (on services it starts, or TEST_DATABASE_URL and TEST_REDIS_URL)
	@$(PYTHON) -m pytest tests -n 2 --dist loadfile

test-fast: venv ## the tests that need no services, in less than a minute
	@$(PYTHON) -m pytest tests/unit -q

test-browser: venv ## the tests of the admin UI, in a real browser (needs Chromium)
	@$(PYTHON) -m pytest tests/e2e

manifests: venv ## judge the container files, the Kubernetes manifests and the pipeline
	@$(PYTHON) -m pytest -q tests/deploy/test_manifests.py tests/deploy/test_kubernetes.py \
		tests/deploy/test_kubernetes_optional.py tests/deploy/test_pipeline.py

chaos: venv ## the long form of the chaos suite (CHAOS_SEED repeats a run)
	@CHAOS_LONG=1 $(PYTHON) -m pytest tests/chaos --timeout 0

bench: venv ## measure everything (ten minutes on an idle machine)
	@$(PYTHON) -m dev.bench

bench-quick: venv ## measure the most telling figures in about a minute
	@$(PYTHON) -m dev.bench --quick

containers: ## build the images, run docker-compose for real and break it (needs a Docker engine)
	@tests/containers/run

lint: venv ## style, format, spelling and types
	@$(PYTHON) -m ruff check .
	@$(PYTHON) -m ruff format --check .
	@.venv/bin/codespell
	@$(PYTHON) -m mypy api worker shared dev

format: venv ## put the code into the project's format
	@$(PYTHON) -m ruff check --fix --quiet . ; $(PYTHON) -m ruff format .

lock: venv ## pin what requirements*.txt need in turn, with hashes (LOCK=--upgrade takes newer ones)
	@for name in requirements requirements-dev; do \
		.venv/bin/uv pip compile $$name.txt --output-file $$name.lock.txt --quiet --universal \
			--python-version 3.11 --generate-hashes --custom-compile-command "make lock" $(LOCK) \
			|| exit; \
	done

venv: ## the virtual environment, made again only when the requirements change
	@dev/make-venv
