# Every target but help and clean first makes sure that .venv holds what uv.lock names (deploy/setup.sh; instant when it
# does). Arguments for a command go in ARGS: make test ARGS="-k invoice -x"

.DEFAULT_GOAL := help
.PHONY: help setup engines prometheus run demo samples test test-pythons bench chaos plans validate pictures check fmt docs clean

BIN := .venv/bin

# Whoever runs or tries the product from here has endpoints on this machine, which it refuses by default. In a file, which is
# written once and is the user's from then on, so that the commands typed beside the product allow them too.
locally = var=$${BILLHOOK_VAR:-var}; [ -e "$$var/settings.env" ] || { (umask 077; mkdir -p "$$var"; \
	printf '%s\n' BILLHOOK_ALLOW_HTTP=true BILLHOOK_ALLOWED_NETWORKS=127.0.0.0/8 > "$$var/settings.env"); };

help:
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' Makefile

setup:
	@sh deploy/setup.sh

engines: # what draws merchants' own templates too
	@sh deploy/setup.sh wkhtmltopdf

prometheus: # what checks rules and runs dashboards, in tests
	@sh deploy/setup.sh prometheus

run: setup ## start everything on the embedded defaults and print the addresses; Ctrl-C drains and stops
	@$(locally) exec $(BIN)/billhook up $(ARGS)

demo: setup ## drive a subscription from its first event to a PDF and verified webhooks
	@$(locally) exec $(BIN)/python -m billhook_testing.demo $(ARGS)

samples: setup engines ## write sample documents of every kind into var/samples, to be looked at
	@$(BIN)/python -m billhook_testing.samples $(ARGS)

# Tests wait for servers, leases and deadlines more than for a processor: four at a time keep two cores busy.
test: setup engines prometheus ## run all tests, on SQLite, a real PostgreSQL and a real Valkey
	@$(BIN)/pytest -n 4 --dist worksteal $(ARGS)

test-pythons: setup ## run the tests of rules and providers on every Python from 3.11 to 3.14 that is at hand
	@sh deploy/pythons.sh $(ARGS)

bench: setup engines ## measure throughput and latency beside their floors; writes bench/results.json
	@$(BIN)/python -m bench $(ARGS)

chaos: setup ## kill processes and the queue under load, and account for every event
	@$(BIN)/python -m tests.chaos $(ARGS)

plans: setup ## ask every hot question at a million rows on both databases, and look at the plans (some minutes)
	@$(BIN)/python -m tests.plans $(ARGS)

validate: setup ## draw samples and put them before veraPDF, the CEN's, ZUGFeRD's and XRechnung's rules, and Mustang (Java)
	@$(BIN)/python -m tests.validators $(ARGS)

pictures: setup ## show the console with the demo's data in it: writes docs/pictures/
	@$(BIN)/python -m bench.pictures $(ARGS)

check: setup ## lint, formatting and strict types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

fmt: setup ## format, and mend what the linter can
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

docs: setup ## write the generated pages of docs/ anew
	@$(BIN)/billhook docs $(ARGS)
	@$(BIN)/python deploy/grafana/dashboards.py

clean: ## remove .venv and all caches; var/, your data, stays
	@rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis dist
	@find . -name __pycache__ -type d -not -path './var/*' -prune -exec rm -rf {} +
	@echo "Removed .venv and caches. var/ was left as it is: it holds your data."
