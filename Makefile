# Two commands do all the set-up on a bare Debian machine with cargo: `make demo` and `make test`.
#
# Everything is built with one profile and one selection of packages, so that RocksDB compiles once for
# all of them. Only the result of a command goes to standard output; cargo's progress goes to standard error.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.ONESHELL:

CARGO ?= cargo
SELECTION := --release --workspace --locked

# Flags for `make demo`, `make bench` and `make compare`, for example: make demo ARGS="--writers 16 --json"
ARGS ?=
# For `make fuzz`: which target, none for all of them, and for how long each.
FUZZ_TARGET ?=
FUZZ_SECONDS ?= 60
# For `make soak`: the first round's seed, and how many operations.
SOAK_SEED ?= 1
SOAK_OPS ?= 1000000
# For `make shuttle`: schedules for each check, a number to begin from, one test, and a failed schedule and its timers.
SHUTTLE_ITERATIONS ?= 4000
SHUTTLE_SEED ?= 1
SHUTTLE_TEST ?=
SHUTTLE_TIMERS ?=
SHUTTLE_REPLAY ?=
# Tools that the targets below install for themselves.
TOOLS := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/watershed/tools

target_dir = $$($(CARGO) metadata --no-deps --format-version 1 --locked | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')
# A thousand shards need some 7,000 files; many systems allow 1,024 unless a process asks for more.
many_files = ulimit -n "$$(ulimit -Hn)"
compile = ./.ci/setup; $(CARGO) build $(SELECTION); binary="$(target_dir)/release/watershed"

.PHONY: help
help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 22
	@printf '\nThe first build compiles RocksDB and takes minutes; demo, test, build and bench share it.\n'

.PHONY: demo
demo: ## load 171,075 documents, move shards under live writes, check every write (ARGS="...")
	@$(compile)
	"$$binary" demo --input benches/data/cities.ndjson.zst --key id --writers 8 --writes 200000 $(ARGS)

.PHONY: kills
kills: ## the demo with processes, one of them killed: each of them, in each phase
	@$(compile)
	@for who in source target driver placement; do \
	  for phase in bulk-copy dual-write quiesce drain delta-pass activate cleanup; do \
	    printf '%s@%s ' $$who $$phase; \
	    "$$binary" demo --nodes 2 --processes --kill $$who@$$phase --shards 4 --writers 4 --writes 10000 2>/dev/null \
	      | grep -E '^(PASS|FAIL)' || exit 1; \
	  done; \
	done

.PHONY: test
test: ## all tests: unit, property, crash, command line, documentation, fuzz corpora
	@./.ci/setup
	./.ci/etcd "$(TOOLS)/bin"
	PATH="$$PATH:$(TOOLS)/bin" $(CARGO) test $(SELECTION)

.PHONY: build
build: ## build the command; the last line is its path
	@$(compile)
	echo "$$binary"

.PHONY: bench
bench: ## measure this engine alone (ARGS="--quick", ARGS="--shards 1,16 --in-flight 1,256")
	@$(compile)
	$(many_files)
	"$$binary" bench $(ARGS)

.PHONY: compare
compare: ## beside RocksDB, fjall, redb, raft-engine (ARGS="log|engine [--quick] [--json]")
	@./.ci/setup
	$(CARGO) build $(SELECTION) --features watershed-bench/peers
	$(many_files)
	"$(target_dir)/release/watershed-compare" $(ARGS)

.PHONY: bench-criterion
bench-criterion: ## criterion benches of the log and the engine
	@./.ci/setup
	$(CARGO) bench --workspace --locked --profile release --bench engine

.PHONY: fuzz
fuzz: $(TOOLS)/bin/cargo-fuzz ## fuzz every target, or one (FUZZ_TARGET=log_ops FUZZ_SECONDS=60)
	@PATH="$(TOOLS)/bin:$$PATH" ./.ci/fuzz "$(FUZZ_SECONDS)" $(FUZZ_TARGET)

.PHONY: fuzz-smoke
fuzz-smoke: $(TOOLS)/bin/cargo-fuzz ## fuzz every target for a few seconds
	@PATH="$(TOOLS)/bin:$$PATH" ./.ci/fuzz 5

$(TOOLS)/bin/cargo-fuzz:
	@$(CARGO) install cargo-fuzz --locked --root "$(TOOLS)"

.PHONY: soak
soak: ## crash, fail, rot and repair the log at random (SOAK_SEED=1 SOAK_OPS=1000000)
	@./.ci/setup
	SOAK_SEED="$(SOAK_SEED)" SOAK_OPS="$(SOAK_OPS)" $(CARGO) test $(SELECTION) --test soak -- --nocapture

.PHONY: shuttle
shuttle: ## run the log under chosen thread schedules (SHUTTLE_ITERATIONS=4000 SHUTTLE_SEED=1)
	@./.ci/setup
	export CARGO_TARGET_DIR="$(target_dir)/shuttle" RUSTFLAGS="--cfg watershed_shuttle"
	export WATERSHED_SHUTTLE_ITERATIONS="$(SHUTTLE_ITERATIONS)" WATERSHED_SHUTTLE_SEED="$(SHUTTLE_SEED)"
	export WATERSHED_SHUTTLE_TIMERS="$(SHUTTLE_TIMERS)" WATERSHED_SHUTTLE_REPLAY="$(SHUTTLE_REPLAY)"
	$(CARGO) test --release --locked -p watershed-wal --test shuttle -- $(SHUTTLE_TEST)

.PHONY: fmt
fmt: ## format the code
	@$(CARGO) fmt --all

.PHONY: ci
ci: ## everything that must pass before a change goes in
	@./.ci/run

.PHONY: clean
clean: ## remove what was built here
	@$(CARGO) clean
