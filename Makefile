# `make` lists the targets.
.DEFAULT_GOAL := help
.PHONY: help run test test-fast test-browser manifests chaos bench bench-quick containers lint format lock venv

SHELL := /bin/sh
PYTHON := .venv/bin/python

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' Makefile

run: ## start the whole service on this machine (API_PORT, PROVIDER_PORT, DISPATCH_WORKERS, LOCAL_DIR)
	@dev/make-venv local
	@$(PYTHON) -m dev.stack run --die-with-parent

test: venv ## run all tests (on services they start, or TEST_DATABASE_URL and TEST_REDIS_URL)
	@$(PYTHON) -m pytest tests -n 2 --dist loadfile --no-loadscope-reorder --durations 20 \
		--cov --cov-report term:skip-covered

test-fast: venv ## run the tests that need no services, in less than a minute
	@$(PYTHON) -m pytest tests/unit -q

test-browser: venv ## test the admin UI in a real browser (needs Chromium)
	@$(PYTHON) -m pytest tests/e2e

manifests: venv ## check the container files, the Kubernetes manifests and the pipeline
	@$(PYTHON) -m pytest -q tests/deploy/test_manifests.py tests/deploy/test_kubernetes.py \
		tests/deploy/test_kubernetes_optional.py tests/deploy/test_pipeline.py

chaos: venv ## run the chaos tests in their long form (CHAOS_SEED repeats a run)
	@CHAOS_LONG=1 $(PYTHON) -m pytest tests/chaos --timeout 0

bench: venv ## measure everything (ten minutes on an idle machine)
	@$(PYTHON) -m dev.bench

bench-quick: venv ## measure the main figures in about a minute
	@$(PYTHON) -m dev.bench --quick

containers: ## build the images, run docker-compose and test failures in it (needs a Docker engine)
	@tests/containers/run

lint: venv ## check style, format, spelling and types
	@$(PYTHON) -m ruff check .
	@$(PYTHON) -m ruff format --check .
	@.venv/bin/codespell
	@$(PYTHON) -m mypy api worker shared dev tests

audit: venv ## look up known vulnerabilities of the locked packages (needs network)
	@.venv/bin/uv tool run pip-audit@2.10.1 --disable-pip --require-hashes \
		$(foreach name,requirements requirements-local requirements-dev,--requirement $(name).lock.txt)

format: venv ## format the code
	@$(PYTHON) -m ruff check --fix --quiet . ; $(PYTHON) -m ruff format .

lock: venv ## pin all direct and indirect requirements, with hashes (LOCK=--upgrade takes newer ones)
	@for name in requirements requirements-local requirements-dev; do \
		.venv/bin/uv pip compile $$name.txt --output-file $$name.lock.txt --quiet --universal \
			--python-version 3.11 --generate-hashes --custom-compile-command "make lock" $(LOCK) \
			|| exit; \
	done

venv: ## make .venv with everything that tests and linters need
	@dev/make-venv dev
