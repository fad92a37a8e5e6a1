# Every target that needs the environment installs it first, if the requirement files changed.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help install wheelhouse install-offline demo test soak viewers serve lock

VENV ?= .venv
PORT ?= 8000
UV ?= uv
# Some shells export HOST as this machine's name: only the command line counts.
ifeq ($(origin HOST),environment)
HOST :=
endif

export VENV WHEELHOUSE WEIGHTS
BIN := $(abspath $(VENV))/bin
# What the environment starts in its turn (dcmqi's programs, "python") has to be its own.
ACTIVE = PATH="$(BIN):$$PATH"
# Ctrl-C is how a server is ended, so it is no error: the server gets it itself and ends in its own time.
# A file's tests share what they start, so a file stays with one process; several servers at once need their memory.
IN_PARALLEL = --numprocesses auto --maxprocesses 4 --dist loadfile
UNTIL_CTRL_C = trap : INT; until_interrupt() { "$$@"; local s=$$?; [ $$s = 130 ] || return $$s; }; until_interrupt

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-15s %s\n", $$1, $$2 }' Makefile

install: ## Create the environment (VENV=.venv PYTHON=python3.11)
	@tools/install && echo "Ready. 'source $(BIN)/activate' gives the commands coldstart and monailabel; 'make demo' shows them at work."

wheelhouse: ## Collect wheels, encoder weights and source for a server without internet (WHEELHOUSE=wheelhouse WEIGHTS=file)
	@tools/install
	@tools/wheelhouse

install-offline: ## Install from such a folder with the network out of reach (WHEELHOUSE=folder)
	@tools/install-offline && echo "Ready. 'source $(BIN)/activate' gives the commands coldstart and monailabel."

demo: ## Play a whole annotation campaign on the sample data against a real server
	@tools/install
	@$(ACTIVE) "$(BIN)/coldstart" demo $(ARGS)

test: ## Run the test suite (ARGS="-k selection")
	@tools/install --dev
	@$(ACTIVE) "$(BIN)/python" -m pytest $(IN_PARALLEL) $(ARGS)

soak: ## Play a week of six annotators against a real server, on a folder and on an archive, in an hour (ARGS="--help")
	@tools/install --dev
	@cd tests && $(ACTIVE) "$(BIN)/python" -m soak --output ../soak-output $(ARGS)

viewers: ## Install Orthanc, Chromium, nginx and 3D Slicer's libraries, which some of the tests run against (Debian; root or sudo)
	@tools/viewers

serve: ## Serve your images: STUDIES=folder [PRESET=name] [PORT=8000] [HOST=127.0.0.1] [ARGS="--conf key value"]
	@test -n "$(STUDIES)" || { echo 'make: say which folder holds the images: make serve STUDIES=/path/to/images' >&2; exit 1; }
	@tools/install
	@export $(ACTIVE); $(UNTIL_CTRL_C) "$(BIN)/coldstart" serve --studies "$(STUDIES)" $(if $(PRESET),--preset "$(PRESET)") --port "$(PORT)" $(if $(HOST),--host "$(HOST)") $(ARGS)

COMPILE = $(UV) pip compile --quiet
PLATFORM = --python-version 3.11 --python-platform x86_64-manylinux_2_28

lock: ## Compile requirements.txt and requirements-dev.txt again (ARGS=--upgrade for newer versions; needs uv)
	@command -v $(UV) > /dev/null || { echo 'make: uv is missing, which resolves with overrides; install it (pip install uv), or name it: make lock UV=/path/to/uv' >&2; exit 1; }
	$(COMPILE) pyproject.toml --override requirements-overrides.txt $(PLATFORM) -o requirements.txt $(ARGS)
	$(COMPILE) --group dev --constraint requirements.txt $(PLATFORM) -o requirements-dev.txt $(ARGS)
