# Needs: make, and Python 3.11 or newer with its venv module. Everything else goes into .venv.

VENV := .venv
STAMP := $(VENV)/.installed
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)

# The first Python that is new enough and can make virtual environments; PYTHON=... chooses another.
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11 python3.14; do \
	$$python -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 \
	&& { echo $$python; break; }; done)

# How many processes run tests: more than cores, because many tests wait; few of them do so at their full size.
CORES := $(shell getconf _NPROCESSORS_ONLN)
PROCESSES ?= $(shell expr $(CORES) \* 2 + 2)
PROCESSES_IN_EARNEST ?= $(shell expr $(CORES) + 2)

# Tests start hundreds of processes, each of which would compile every module again.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint types imports diagram pytest test-redis faults faults-long hostile security memory upgrade-test test-matrix clients hosts browsers proxies dist up recording bench conformance conformance-server docker-test format lock clean

help: ## Show this help
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(STAMP) ## Make .venv with everything that is pinned in requirements.lock

$(STAMP): requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { \
	echo "No Python 3.11 or newer with the modules venv and ensurepip is on PATH." >&2; \
	echo "Install one (Debian, Ubuntu: apt-get install python3 python3-venv), or say make PYTHON=..." >&2; \
	exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	$(VENV)/bin/python -m pip install --quiet --require-hashes --requirement requirements.lock
	$(VENV)/bin/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

demo: $(STAMP) ## Real work through a real MCP client, with a crash on the way; under two minutes
	python -m workers.demo

test: $(STAMP) ## Everything that CI checks
	@$(MAKE) --no-print-directory --jobs=2 lint imports diagram types pytest \
	|| { echo "make test: something failed; look above for its name after '***'." >&2; exit 1; }

lint: $(STAMP) ## Style
	ruff check
	ruff format --check

types: $(STAMP) ## Strict type check
	mypy

imports: $(STAMP) ## Which module may import which
	lint-imports

diagram: $(STAMP) ## The state diagram in the docs is the one of the code
	python docs/draw_state_machine.py --check

# All processes read all tests. Once, one of them compiles these before the others would all do so at once.
$(VENV)/.compiled: $(STAMP)
	-@pytest --collect-only --quiet > $@ 2>&1

pytest: $(STAMP) $(VENV)/.compiled ## The test suite: real Redis, real workers, real MCP clients
	pytest --numprocesses $(PROCESSES) --dist loadfile --no-loadscope-reorder

# Every Redis that is promised; each as TASKS_TEST_REDIS names it (see tests/kit/chosen.py).
SERVERS ?= redis-7.0 valkey

test-redis: $(STAMP) ## What meets Redis, on each Redis that is promised; SERVERS="valkey /path/to/redis-server"
	@for server in $(SERVERS); do echo "*** $$server"; \
	TASKS_TEST_REDIS=$$server pytest tests/store tests/e2e tests/faults \
	--numprocesses $(PROCESSES) --dist loadfile --no-loadscope-reorder || exit 1; done

test-matrix: $(STAMP) ## The oldest and newest Python, Celery, redis-py and pydantic, together and mixed (needs the package index)
	python -m pip install --quiet uv
	pytest tests/matrix -m matrix

clients: $(STAMP) ## Clients that others wrote, on front ends that die (needs npm; up to ten minutes)
	TASKS_TEST_CLIENTS=required pytest tests/clients -m clients

hosts: $(STAMP) ## Hosts that others wrote, with a model that follows a script (needs npm; up to half an hour)
	TASKS_TEST_HOSTS=required pytest tests/hosts -m hosts

browsers: $(STAMP) ## A page of another origin, and the Inspector's direct mode, in Chromium (needs Debian's chromium, npm)
	TASKS_TEST_BROWSERS=required pytest tests/browsers -m browsers

proxies: $(STAMP) ## The guide's proxies, in front of front ends that are restarted (needs nginx, haproxy, caddy; ten minutes)
	pytest tests/proxies -m proxies

# The sizes of `make faults`; without them, or within `make test`, the same tests are a sample.
EARNEST := TASKS_TEST_OPERATIONS=30000 TASKS_TEST_PROCESSES=6 TASKS_TEST_RACES=1000 \
	TASKS_TEST_EXAMPLES=1300 TASKS_TEST_ZOMBIES=200 TASKS_TEST_ZOMBIE_CHILDREN=5 TASKS_TEST_CREATES=400 \
	TASKS_TEST_LISTINGS=20 TASKS_TEST_HOT_WRITES=200 TASKS_TEST_SWEPT=500 TASKS_TEST_EXPIRED=6000 \
	TASKS_TEST_EXPIRED_MIB=8 TASKS_TEST_DUPLICATES=100 TASKS_TEST_CLOCK_STEPS=4 \
	TASKS_TEST_TASKS=5000 TASKS_TEST_FAULTS=50 TASKS_TEST_DEATHS=5 TASKS_TEST_BACKLOG=1000 TASKS_TEST_REPAIRS=5

faults: $(STAMP) ## Every fault that we can name, in earnest (ten minutes at most)
	$(EARNEST) pytest tests/faults tests/store/test_lock_step.py tests/e2e/test_worker_deaths.py \
	tests/e2e/test_worker_slots.py \
	-m "not hostile and not memory" --numprocesses $(PROCESSES_IN_EARNEST) --dist loadfile --no-loadscope-reorder

faults-long: $(STAMP) ## Chaos at length: 20,000 tasks, 200 faults
	TASKS_TEST_TASKS=20000 TASKS_TEST_FAULTS=200 pytest tests/faults/test_chaos.py -m faults -s

hostile: $(STAMP) ## Every message, stored byte and exception that does harm, in every pool (some minutes)
	TASKS_TEST_HOSTILE=20000 pytest tests/faults/test_damaged_store.py tests/faults/test_every_exception.py \
	tests/faults/test_hostile_messages.py -m "hostile or not hostile"

# The sizes of `make security`; without them, or within `make test`, the same tests are a sample.
ATTACKS := TASKS_TEST_PROVIDERS=1 TASKS_TEST_BAD_MESSAGES=30000 TASKS_TEST_SCHEMAS=300 TASKS_TEST_HANGUPS=500 \
	TASKS_TEST_BAD_INPUTS=50000 TASKS_TEST_HALF_OPEN=1000 TASKS_TEST_SLOW_READERS=200 TASKS_TEST_SINGLE_BYTES=200000 \
	TASKS_TEST_ABUSE_SECONDS=30 \
	TASKS_TEST_TAMPERED=0 TASKS_TEST_REENCRYPTED=10000 TASKS_TEST_CANARIES=1

security: $(STAMP) ## Every attack that is known, in earnest (six minutes at most)
	$(ATTACKS) pytest tests/security --numprocesses $(PROCESSES_IN_EARNEST) --dist loadfile --no-loadscope-reorder

memory: $(STAMP) ## The memory of each kind of process over 100,000 tasks (half an hour)
	pytest tests/faults/test_memory.py -m memory -s

upgrade-test: $(STAMP) ## Neighbouring releases on one store, forward and back (needs the git history; some minutes)
	TASKS_TEST_UPGRADE_CALLS=100 pytest tests/upgrade -m "upgrade or not upgrade"

dist: $(STAMP) ## The wheel and the source distribution, in dist/
	rm -rf dist
	python -m hatchling build

up: $(STAMP) ## The whole service from the Procfile, Flower included, until Ctrl-C
	tasks-service up --procfile Procfile

recording: $(STAMP) ## Record the session that the README shows (needs the package index, Linux)
	python -m pip install --quiet pyte
	python docs/record_session.py

bench: $(STAMP) ## What one task costs, what waiting tasks cost the others, and what a start costs (three minutes)
	python -m bench.startup
	python -m bench.latency
	python -m bench.parked

conformance: $(STAMP) ## The official conformance suite against the fixture, with and without its code (needs npm)
	python -m tests.conformance.run
	python -m tests.conformance.run --codeless

PORT ?= 8787

conformance-server: $(STAMP) ## The fixture server on loopback, for clients and load generators of others; PORT=8787
	python -m tests.conformance.serve --port $(PORT)

docker-test: $(STAMP) ## Build the images, bring the compose stack up, call a tool, scale, take it down
	docker/test.sh

format: $(STAMP) ## Fix what can be fixed automatically
	ruff check --fix
	ruff format

LOCK := UV_CUSTOM_COMPILE_COMMAND="make lock" uv pip compile pyproject.toml --universal --python-version 3.11 \
	--generate-hashes --no-annotate --no-emit-index-url --no-emit-find-links --upgrade --quiet --output-file

lock: $(STAMP) ## Pin the newest versions that pyproject.toml allows, for each supported Python
	python -m pip install --quiet uv
	$(LOCK) requirements.lock --all-extras --group dev --group demo
	$(LOCK) docker/front-end.lock --extra server --extra metrics
	$(LOCK) docker/worker.lock --extra flower --extra encryption --extra metrics --group deployment

clean: ## Remove what was made, data of `make up` excepted
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis demo-output dist build .matrix
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
