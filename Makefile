# The tasks of this project. `make` alone lists them.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
PROFILE ?= dev

.PHONY: help run deps test lint fmt check unit soak bench fuzz

help: ## list the tasks
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-8s %s\n", $$1, $$2}'

run: ## build and start a relay with its data in ./data (PROFILE=release: optimised)
	@tools/run.sh $(PROFILE)

deps: ## install what the tests need on a bare Debian machine
	@tools/install-deps.sh

test: deps lint unit ## everything: lints and all tests, with a private PostgreSQL

lint: ## formatting, clippy, shell scripts, licences, arrows between crates
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	shellcheck .ci/run tools/*.sh
	tools/check-house.sh

unit: ## all tests, without lints
	tools/with-postgres.sh tools/test.sh

fmt: ## format the code
	cargo fmt --all

soak: ## the long campaigns: many rounds of kill -9, long randomised runs
	tools/with-postgres.sh tools/soak.sh

bench: ## measure, side by side with peers
	tools/bench.sh

fuzz: ## fuzz each decoder for a minute (needs cargo-fuzz; any tool chain)
	tools/fuzz.sh
