# The recipes that people and CI call alike. `make` alone lists them.

# Where the demo's VPN servers run: docker, or process (child processes: no daemon, no images).
BACKEND ?= docker
# How the tests and the programs they run are built: dev compiles fast, release is what users get.
PROFILE ?= dev

# cargo's folder for a profile
TEST_TARGET = target/$(if $(filter dev,$(PROFILE)),debug,$(PROFILE))
# Programs for users are static, with musl: nothing of the machine's is needed and less memory. `make setup` fetches
# what that takes; where it cannot be had, they are built for the C library that is there.
MUSL = $(shell uname -m)-unknown-linux-musl
RELEASE_TARGET = $(or $(shell rustup target list --installed 2>/dev/null | grep -x $(MUSL)),$(shell rustc -vV | sed -n 's/^host: //p'))
# Where they are.
PROGRAMS = target/programs
# Cargo.lock says what is built, here as in CI.
CARGO_FLAGS = --locked
SCRIPTS = tools/setup tools/daemons tools/lib.sh tools/images/build tools/jaeger/run .ci/run

export PATH := $(CURDIR)/tools/bin:$(PATH):$(HOME)/.cargo/bin:/usr/local/go/bin
# Prerequisites are steps, in their order; cargo and go use all cores by themselves.
.NOTPARALLEL:
.DEFAULT_GOAL := help

.PHONY: help
help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo "  BACKEND=docker|process   where the demo's servers run (now: $(BACKEND))"
	@echo "  PROFILE=dev|release      how the tests are built (now: $(PROFILE))"

.PHONY: setup
setup: ## install what is missing, start a container daemon if none answers
	@tools/setup
	@tools/daemons start

.PHONY: setup-process
setup-process:
	@tools/setup --no-daemon

.PHONY: build
build: ## the programs: vpnd and vpn in target/programs, and what the demo and bench need
	cargo build $(CARGO_FLAGS) --release --target $(RELEASE_TARGET) --workspace --bins
	@ln -sfn $(RELEASE_TARGET)/release $(PROGRAMS)

.PHONY: images
images: build ## the container images that servers run
	@tools/images/build xray wireguard $(PROGRAMS)/vpnd

# Each backend's own preparations; an unknown one is told by the demo itself.
DEMO_NEEDS = $(if $(filter process,$(BACKEND)),setup-process build,setup images)

.PHONY: demo
demo: $(DEMO_NEEDS) ## all of it at work: bus, services, servers, users, real clients, one trace
	$(PROGRAMS)/demo --backend $(BACKEND)

.PHONY: test
test: setup lint ## every test and lint; what CI runs
	cargo build $(CARGO_FLAGS) --profile $(PROFILE) --workspace --all-targets
	@tools/images/build xray wireguard $(TEST_TARGET)/vpnd
	cargo test $(CARGO_FLAGS) --profile $(PROFILE) --workspace

.PHONY: bench
bench: setup images ## measure against the floor of the same run; writes target/bench.json
	$(PROGRAMS)/bench

.PHONY: lint
lint: ## format, clippy, unused and unwanted dependencies, scripts
	@tools/setup lint
	cargo fmt --all --check
	shellcheck -x --source-path=. $(SCRIPTS)
	cargo machete
	cargo deny $(CARGO_FLAGS) check bans licenses sources
	cargo clippy $(CARGO_FLAGS) --profile $(PROFILE) --workspace --all-targets -- -D warnings

.PHONY: fmt
fmt: ## format the code
	cargo fmt --all

.PHONY: clean
clean: ## remove what cargo built; the programs in tools/bin stay
	cargo clean
