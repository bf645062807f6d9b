# Two commands are all it takes on Debian 12 or Ubuntu 24.04, as root: `make demo` and `make test`.
# Each installs what it needs first, and does nothing of that the second time. `make build` needs no root.

SHELL := /bin/bash
RUN := tools/run
PYTEST := $(RUN) python -m pytest
# Each file of tests is one process's. The three with containers come first and wait for each other, and half of the time
# of the others is waiting too: so there are more processes than cores.
PROCESSES ?= 6
# For example: make bench BENCHMARKS=control_plane
BENCHMARKS ?= first_packet redispatch max_connections peers hash_quality control_plane in_memory fleet

.DEFAULT_GOAL := help
.PHONY: help setup demo up down test lint unit kernel browser drills fleet molecule hosts build clean versions bench bench-check

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: ## Balance 300 real connections over four containers and show who answered
	@MAKE_TARGET=demo tools/setup lab
	@$(RUN) python tools/demo.py

test: dev ## Run everything: lint, unit, kernel, drills and molecule, with one summary at the end
	@NATLB_KERNEL=short $(PYTEST) --numprocesses $(PROCESSES) --dist loadfile --no-loadscope-reorder

lint: dev ## ansible-lint, ansible-test sanity, ruff and mypy
	@$(PYTEST) tests/lint

unit: dev ## Tests of the pure core; no root, no network
	@$(PYTEST) tests/unit

kernel: dev ## Both engines on the real kernel, in network namespaces; make test leaves most of iptables-legacy out
	@$(PYTEST) tests/kernel

browser: dev ## The web page of the playbook report in a headless Chromium, with an accessibility checker
	@$(PYTEST) --capture=no tests/browser

drills: dev ## Inject faults, some minutes long, print what was lost and write it into docs/reliability.md
	@NATLB_DRILLS=full $(PYTEST) --capture=no tests/drills tests/kernel/test_churn.py tests/kernel/test_other_firewalls.py

fleet: dev ## Several balancers: one is killed, cut off, left behind; a change is rolled out; prints each gap
	@NATLB_FLEET=full $(PYTEST) --capture=no tests/molecule/test_scenarios.py -k "pair or active or anycast or rollout or here"

molecule: dev ## All molecule scenarios, on containers
	@$(PYTEST) tests/molecule

versions: dev ## The collection with every release of ansible-core that the README names
	@$(PYTEST) --capture=no tests/versions

hosts: ## The same on real Debian hosts, as virtual machines; an hour, and images are made the first time
	@MAKE_TARGET=hosts tools/setup hosts
	@$(PYTEST) tests/hosts

bench: ## Speed side by side with what one would pick instead, about an hour; writes docs/performance.md
	@MAKE_TARGET=bench tools/setup bench
	@set -e; set -- $(BENCHMARKS); number=0; for part; do number=$$((number + 1)); \
		echo "bench: part $$number of $$#, $$part ($$(date +%T))"; $(RUN) python tests/bench/$$part.py --write; done

bench-check: ## Has something become slow? Some minutes of it, against limits
	@MAKE_TARGET=bench-check tools/setup bench
	@$(RUN) python tests/bench/check.py

build: ## Build the collection's archive; needs no root
	@MAKE_TARGET=build tools/setup build
	@$(RUN) ansible-galaxy collection build --force

setup: dev ## Install everything that the targets above need

.PHONY: dev
dev:
	@MAKE_TARGET=test tools/setup dev

up: ## Start the containers of the lab
	@MAKE_TARGET=up tools/setup lab
	@$(RUN) python tests/lab/lab.py up

down: ## Remove the containers and networks of the lab
	@$(RUN) python3 tests/lab/lab.py down

clean: ## Remove containers, networks, the image and everything made in this folder
	@tools/clean
