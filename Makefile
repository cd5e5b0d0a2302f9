# Each target sets up what it needs; on a fresh machine that takes a minute, afterwards a moment.
# PYTHON=/path/to/python chooses the Python, from 3.11 on.

MAKEFLAGS += --no-print-directory
BASE := deploy/python.sh
BIN := .venv/bin
# Two processes fill a small machine, since every test process has stores of its own beside it.
TEST_PROCESSES ?= 2
# Each process gets tests that stand together, so that a module's servers are started once.
PYTEST := $(BIN)/pytest -n $(TEST_PROCESSES) --dist worksteal

.DEFAULT_GOAL := help
.PHONY: help run down test test-long bench check format lock setup stores clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 20

run: ## everything on this machine: stores, demo coupon, demo key, service on port 8080; Ctrl-C ends it
	@$(BASE) -m deploy.run up

down: ## stops `make run`, or what it left running
	@$(BASE) -m deploy.run down

test: setup stores ## all tests but the long ones; ARGS="-k name" for pytest
	@$(PYTEST) -m "not long" $(ARGS)

test-long: setup stores ## the long tests
	@$(PYTEST) -m long $(ARGS)

bench: stores ## which way of counting a hot coupon holds; an hour: docs/benchmarks.md; ROWS, DURATION, ARGS="--quick"
	@$(BASE) -m deploy.bootstrap bench
	@$(BIN)/python -m bench $(if $(ROWS),--rows $(ROWS)) $(if $(DURATION),--duration $(DURATION)) $(ARGS)

check: setup ## format, lint, types, Lua, what deploys, structure
	@$(BIN)/ruff format --check --quiet . || { echo "make format mends it" >&2; exit 1; }
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy --strict --no-error-summary
	@$(BASE) -m deploy.programs run luacheck -qq --no-color lua
	@deploy/lint.sh
	@$(BIN)/pytest -q tests/structure

format: setup ## formats the code and mends what can be mended without thinking
	@$(BIN)/ruff format --quiet .
	@$(BIN)/ruff check --quiet --fix .

lock: setup ## renews the lock files in requirements/; UPGRADE=1 takes the newest versions
	@deploy/lock.sh $(if $(UPGRADE),--upgrade)

setup: ## the environment .venv, if it is not there or out of date
	@$(BASE) -m deploy.bootstrap

stores: ## the programs of the two stores, of backups, curl and wrk, if they are missing
	@$(BASE) -m deploy.programs get redis mariadb mariadb-dump curl openssl wrk

clean: down ## removes the environment, the programs fetched and the stores' data
	@rm -rf .venv .local dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
