# Run `make help`. Everything happens in .venv; nothing is installed outside it, except by `make servers` as root.
PYTHON ?= python3
PIP := $(PYTHON) -m pip --python .venv/bin/python --quiet --disable-pip-version-check
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help demo check format test fuzz servers kills pins clean

help:  ## Show this list
	@sed -n 's/^\([a-z]*\):.*##\(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

demo: .venv/.run  ## Run durable jobs end to end on the embedded database and server, with kills
	@$(BIN)/garivini demo

check: .venv/.dev  ## Format, lint, types, unit and SQLite tests: seconds, no servers
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy --no-error-summary
	@$(BIN)/pytest -q -n 2 --dist worksteal -m "not servers and not slow"

format: .venv/.dev  ## Format the code and fix what the linter can
	@$(BIN)/ruff format --quiet .
	@$(BIN)/ruff check --quiet --fix .

test: .venv/.dev servers  ## All tests, real servers included
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy --no-error-summary
	@$(BIN)/pytest -q -n 2 --dist worksteal -m "not slow"
	@$(BIN)/pytest -m slow  # loads, kills and stalls: one at a time

fuzz: .venv/.dev  ## Feed a million hostile inputs to everything that reads bytes from outside
	@$(BIN)/python -m tests.fuzz

kills: .venv/.dev  ## Kill each role fifty times under load and check that nothing is lost
	@$(BIN)/python -m tests.kills

# Gearman servers, databases, PHP and Perl. The tests start private servers of their own and stop them.
servers:
	@tests/install_servers.sh

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	@$(PYTHON) -m venv --without-pip .venv

.venv/.run: requirements/run.txt pyproject.toml | .venv/bin/python
	@$(PIP) install --require-hashes -r requirements/run.txt
	@$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@

.venv/.dev: requirements/dev.txt pyproject.toml | .venv/bin/python
	@$(PIP) install --require-hashes -r requirements/dev.txt
	@$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@

# Needs uv. No index is recorded: the hashes alone say what may be installed.
UV := uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --no-emit-index-url
pins:  ## Pin the newest versions that pyproject.toml allows
	@printf 'hatchling\neditables\n' | $(UV) --upgrade pyproject.toml - -o requirements/run.txt
	@$(UV) --upgrade pyproject.toml --group dev -o requirements/dev.txt

clean:  ## Remove the environment and caches
	@rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis dist
