# Verbatim's commands. `make` lists them; `make run` and `make test` are the two that matter.
#
# One environment, .venv, from hash-locked requirements: only wheels, so installing runs nobody's code, and then the project
# itself, without a network (of the test tools one, forbiddenfruit, comes as source only). It is made again when the lock, the interpreter or this folder's place changes (a venv cannot be
# moved); an unchanged one costs a blink. All paths are relative, so the folder's own may hold spaces.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

# PYTHON: the interpreter to make the environment with. Any 3.11 or newer will do; the first one found is taken.
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$p" && break; done)
# PORT, VIEWER_PORT: where `make run` listens. JOBS: how many tests at once.
PORT ?=
VIEWER_PORT ?=
JOBS ?= 2

BIN := .venv/bin
PIP_INSTALL = $(BIN)/python -m pip install -qq --disable-pip-version-check --no-input
OPENSPEC := OPENSPEC_TELEMETRY=0 DO_NOT_TRACK=1 npx --yes @fission-ai/openspec@1.13.2
LOCK := $(BIN)/uv pip compile --quiet --no-config --universal --python-version 3.11 --generate-hashes --no-annotate --no-header \
	--no-emit-index-url --no-emit-find-links

.PHONY: help run test unit lint format types specs fuzz smuggle slow crash soak bench autobahn wstest lock sizes clean env dev installed

help: ## list these commands
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 18

run: installed ## gateway and viewer on a demo upstream that needs no key [PORT=8787] [VIEWER_PORT=8788]
	@exec $(BIN)/verbatim serve --demo $(if $(PORT),--port $(PORT)) $(if $(VIEWER_PORT),--viewer-port $(VIEWER_PORT))

test: lint types specs tests/js/node_modules/.package-lock.json wstest ## everything: style, types, imports, specs, then every test
	@echo "== tests"
	@$(BIN)/pytest -n $(JOBS) --cov --cov-report=term:skip-covered --durations=15

unit: dev tests/js/node_modules/.package-lock.json wstest ## the tests alone, without coverage
	@$(BIN)/pytest -n $(JOBS)

lint: dev ## style, format, and who may import whom
	@echo "== lint"
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/lint-imports --no-logo

format: dev ## put the code in shape
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

types: dev ## mypy, strict
	@echo "== types"
	@$(BIN)/mypy

specs: dev ## openspec's own validation and ours
	@echo "== specs"
	@$(OPENSPEC) validate --specs --strict --no-interactive
	@$(BIN)/pytest -q tests/test_openspec.py

fuzz: dev ## every property test with many more examples
	@$(BIN)/pytest -n $(JOBS) -m hypothesis --hypothesis-profile=fuzz --timeout=1800

smuggle: dev ## 2,000 mutated requests and 2,000 mutated answers, each of which an independent reader judges (30 seconds)
	@VERBATIM_SMUGGLE_CASES=2000 $(BIN)/pytest --timeout=600 tests/gateway/relay/test_smuggling.py

slow: dev ## slowhttptest (Debian has it): a thousand slow heads, a thousand slow bodies (45 seconds)
	@VERBATIM_SLOWHTTPTEST=1 $(BIN)/pytest -s tests/gateway/relay/test_limits.py -k slowhttptest

crash: dev ## kills, failing calls, power losses, full and stalled disks by the thousand: nothing acknowledged is lost (25 minutes)
	@VERBATIM_RESTARTS=20 VERBATIM_RELOADS=200 $(BIN)/pytest --timeout=600 tests/gateway/test_workers.py tests/gateway/test_reload.py
	@VERBATIM_HISTORIES=500 VERBATIM_FOLLOW_KILLS=60 $(BIN)/pytest --timeout=600 tests/archive/catalog/test_follow.py
	@table="$$(mktemp)"; VERBATIM_CRASH_TRIALS=400 VERBATIM_CRASH_TABLE="$$table" $(BIN)/pytest -m campaign --timeout=1800; code=$$?; \
	echo; $(BIN)/python tests/faults/account.py "$$table"; rm -f "$$table"; exit $$code

soak: dev ## ten minutes of 1,000 streams, 200 websockets and 50 requests a second while clients leave and upstreams and the disk fail
	@PYTHONPATH=tests $(BIN)/python -m soak.run

bench: dev ## Verbatim beside nginx, Caddy, Node and a naive relay
	@$(BIN)/python tests/bench/run.py

autobahn: dev ## the Autobahn websocket suite through the gateway and without it, all cases, both ways (needs a Python 2.7; half an hour)
	@$(BIN)/python tests/autobahn/run.py

wstest: dev
	@$(BIN)/python tests/autobahn/run.py --install

lock: dev ## new lock files, for every Python from 3.11 on and every platform
	@$(LOCK) --upgrade --group build pyproject.toml -o requirements.lock
	@$(LOCK) --upgrade --group dev --constraints requirements.lock pyproject.toml -o requirements-dev.lock

sizes: env ## lines per room, and what is longer than the guidance
	@$(BIN)/python tests/sizes.py

clean: ## remove what these commands made; recorded data stays
	@rm -rf .venv build dist htmlcov .coverage .coverage.* .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@rm -rf tests/js/node_modules .wstest
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The environment. A stamp in .venv says what each step was made from. Without python3-venv (Debian), the outer pip begins to fill it.
env:
	@if ! "$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
		echo "Verbatim needs Python 3.11 or newer: make PYTHON=/path/to/python3" >&2; exit 2; fi
	@key="$$(cksum < requirements.lock) $$("$(PYTHON)" -VV) $$PWD"; \
	if [ "$$(cat .venv/.lock 2>/dev/null)" != "$$key" ] || ! $(BIN)/python -c '' 2>/dev/null; then \
		echo "Making .venv with $$("$(PYTHON)" -V) from requirements.lock"; \
		if "$(PYTHON)" -c 'import ensurepip' 2>/dev/null; then \
			"$(PYTHON)" -m venv --clear .venv; \
			set -- $(PIP_INSTALL); \
		else \
			"$(PYTHON)" -m venv --clear --without-pip .venv; \
			set -- "$(PYTHON)" -m pip --python $(BIN)/python install -qq --disable-pip-version-check; \
		fi && "$$@" --only-binary :all: --require-hashes -r requirements.lock && printf '%s' "$$key" > .venv/.lock; \
	fi

installed: env
	@key="$$(cat pyproject.toml gateway/__init__.py | cksum)"; \
	if [ "$$(cat .venv/.project 2>/dev/null)" != "$$key" ]; then \
		echo "Installing the project itself"; \
		$(PIP_INSTALL) --no-index --no-deps --no-build-isolation --editable . && printf '%s' "$$key" > .venv/.project; \
	fi

dev: installed
	@key="$$(cksum < requirements-dev.lock)"; \
	if [ "$$(cat .venv/.dev 2>/dev/null)" != "$$key" ]; then \
		echo "Adding the tools of requirements-dev.lock"; \
		$(PIP_INSTALL) --only-binary :all: --no-binary forbiddenfruit --require-hashes -r requirements-dev.lock && printf '%s' "$$key" > .venv/.dev; \
	fi

tests/js/node_modules/.package-lock.json: tests/js/package-lock.json
	@echo "Adding the mock of the model providers (npm)"
	@npm ci --prefix tests/js --no-audit --no-fund --loglevel=error
	@touch $@
