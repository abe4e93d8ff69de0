# Run `make help`. Everything happens in .venv; nothing is installed outside it, except by `make servers` as root.
PYTHON ?= python3
PIP := $(PYTHON) -m pip --python .venv/bin/python --quiet --disable-pip-version-check
BIN := .venv/bin
# Bytecode is kept, whatever the environment says: the tests start hundreds of processes.
export PYTHONDONTWRITEBYTECODE :=
export PYTHONPYCACHEPREFIX := $(CURDIR)/.venv/pycache

.DEFAULT_GOAL := help
.PHONY: help demo check format test soak fuzz servers versions test-versions kills pins clean

help:  ## Show this list
	@sed -n 's/^\([a-z-]*\):.*##\(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 22

demo: .venv/.run  ## Run durable jobs end to end on the embedded database and server, with kills
	@$(BIN)/garivini demo

# SQLite files of tests are in memory if there is room: the disk would have to sync each commit.
MEMORY := $(shell test "$$(df -k --output=avail /dev/shm 2>/dev/null | tail -1)" -gt 500000 2>/dev/null \
	&& echo TMPDIR=/dev/shm)
check: .venv/.dev  ## Format, lint, types, unit and SQLite tests: seconds, no servers
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy --no-error-summary >.venv/mypy & types=$$!; \
	$(MEMORY) $(BIN)/pytest -q -p no:xdist --forks 3 --hypothesis-profile few -m "not servers and not slow"; \
	tests=$$?; wait $$types; types=$$?; cat .venv/mypy; exit $$((tests + types))

format: .venv/.dev  ## Format the code and fix what the linter can
	@$(BIN)/ruff format --quiet .
	@$(BIN)/ruff check --quiet --fix .

test: .venv/.dev servers  ## All tests, real servers included: minutes
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy --no-error-summary
	@$(BIN)/pytest -q -n 3 --dist worksteal -m "not alone and not soak"
	@$(BIN)/pytest -q -m "alone and not soak" --durations=10

soak: .venv/.dev servers  ## The long runs of kills, loads, plans, seeds and hostile inputs: an hour
	@$(BIN)/pytest -q -n 2 --dist worksteal -m "soak and not alone"
	@$(BIN)/pytest -q -m "soak and alone" --durations=10
	@GARIVINI_TESTS_SOON=2 $(BIN)/pytest -q -m "not soak" tests/test_keeper_faults.py tests/test_wrong_input.py tests/test_forged_payloads.py tests/test_failover.py tests/test_pure_failover.py
	@$(BIN)/python -m tests.fuzz
	@$(BIN)/python -m tests.kills

fuzz: .venv/.dev  ## Feed a million hostile inputs to everything that reads bytes from outside
	@$(BIN)/python -m tests.fuzz

kills: .venv/.dev  ## Kill each role fifty times under load and check that nothing is lost
	@$(BIN)/python -m tests.kills

versions: .venv/.dev  ## Fetch servers and Pythons of other versions beside the machine's packages: 2 GB
	@$(BIN)/python -m tests.versions.install

test-versions: .venv/.dev  ## The tests on those versions, and of Python; writes docs/reference/versions.md
	@$(BIN)/python -m tests.versions.install || true # a version that is missing fails in the next line
	@$(BIN)/python -m tests.versions

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
