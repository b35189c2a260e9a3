# Each target works as the only command typed on a fresh clone: it installs what it needs first.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/agentmetal
# uv where `prepare uv` may have put it, go where its installer puts it, Debian's programs for root
export PATH := $(PATH):$(HOME)/.local/bin:$(CACHE)/uv/bin:/usr/local/go/bin:/usr/sbin:/sbin
unexport VIRTUAL_ENV

PYTHON := .venv/bin/python
INSTALLED := .venv/.installed

.PHONY: help install dev demo test faults lint crds bench audit sbom clean packages control-plane

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' Makefile

install: packages $(INSTALLED) control-plane ## Install everything: Debian packages, .venv, the control plane (8 min once)

dev: install ## Start a development control plane with the operator's roles and CRDs, and no machines
	.venv/bin/agentmetal dev up --machines 0

demo: install ## Show what AgentMetal does, on this machine
	.venv/bin/agentmetal demo

test: install lint ## Run the linters and all tests, each tier within its time (slow machine: TEST_BUDGET_SCALE=2)
	$(PYTHON) tests/run.py

faults: install ## Break a real system in every way that we know, also in the slow ones that `make test` leaves out
	$(PYTHON) -m tests.faulting

lint: $(INSTALLED) ## Check style, types and layers
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports

crds: $(INSTALLED) ## Generate crds/ from the models
	.venv/bin/agentmetal crds --write

bench: install ## Measure against the budgets
	$(PYTHON) -m bench

audit: $(INSTALLED) ## Ask OSV for known vulnerabilities of what uv.lock names (needs the network; exit code 3: nobody answered)
	@.ci/audit

sbom: $(INSTALLED) ## Write dist/agentmetal.cdx.json: what the operator is made of, with hashes and licences
	@$(PYTHON) .ci/sbom

clean: ## Stop what runs in .agentmetal; remove .venv and all caches in this tree
	@if [ -d .agentmetal ] && [ -x .venv/bin/agentmetal ]; then \
	  .venv/bin/agentmetal dev down --state .agentmetal/demo && .venv/bin/agentmetal dev down; \
	elif [ -d .agentmetal ]; then echo "If something still runs in .agentmetal: make install && make clean"; fi
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis .coverage* dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

packages:
	@.ci/prepare packages

control-plane: $(INSTALLED)
	@$(PYTHON) -m agentmetal.dev.controlplane.build >/dev/null

$(INSTALLED): pyproject.toml uv.lock
	@.ci/prepare uv
	uv sync --locked
	@touch $@
