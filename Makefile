# Everything that is done with this project. `make help` lists it.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# envoy/trip/envoy.yaml names the filter by this path.
export CARGO_TARGET_DIR := $(CURDIR)/target

WASM_TARGET := wasm32-wasip1
HARNESS := cargo run --profile test --package wasm-test-harness --bin sagabox-harness --
# Sets ENVOY to the Envoy to use: as it is set already, else func-e's, else PyPI's.
FIND_ENVOY := ENVOY="$$(envoy/find-envoy)" && export ENVOY
# Sets ETCD to the etcd to use: as it is set already, else the one on the PATH, else Debian's.
FIND_ETCD := ETCD="$$(wasm-test-harness/find-etcd)" && export ETCD

.PHONY: help
help: ## Lists the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-13s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

.PHONY: demo
demo: build ## Books trips on a real Envoy, lets participants refuse and fail, and shows what comes of it
	@$(FIND_ENVOY) && $(HARNESS) demo

.PHONY: demo-crash
demo-crash: build ## Kills one of two Envoys in the middle of trips, and shows how the other finishes them
	@$(FIND_ENVOY) && $(FIND_ETCD) && $(HARNESS) demo-crash

.PHONY: test
test: build build-planted ## Runs all tests, those on a real Envoy and a real etcd included
	@$(FIND_ENVOY) && $(FIND_ETCD) && cargo test --workspace --no-fail-fast

# What `make simulate` runs: so many seeds, from one on; or one seed, with all that happens in it; rates of faults that
# overrule what the seeds draw (FAULTS=request_lost=0.2,trap=0); and anything else that the command takes.
SEEDS ?= 2000
FROM ?= 0
SIMULATE = --seeds $(SEEDS) --from $(FROM) $(if $(SEED),--seed $(SEED)) $(if $(FAULTS),--faults $(FAULTS)) $(OPTIONS)

.PHONY: simulate
simulate: build ## Runs the filter under random faults in virtual time [SEEDS=2000] [FROM=0] [SEED=n] [FAULTS=name=rate,...]
	@$(HARNESS) simulate $(SIMULATE)

.PHONY: run
run: build ## Starts Envoy and the participants, and leaves them up until Ctrl-C
	@$(FIND_ENVOY) && $(HARNESS) run

.PHONY: build
build: wasm-target ## Builds the filter: target/wasm32-wasip1/release/sagabox.wasm
	@cargo build --release --target $(WASM_TARGET) --package sagabox --lib

.PHONY: build-planted
build-planted: wasm-target ## Builds the filter with faults that the tests must find: target/wasm32-wasip1/planted/sagabox.wasm
	@cargo build --profile planted --target $(WASM_TARGET) --package sagabox --lib --features planted-faults

.PHONY: check
check: wasm-target ## Checks formatting, lints, documentation and Cargo.lock; what CI runs besides demo, test and fuzz
	@cargo metadata --locked --format-version 1 >/dev/null
	@cargo fmt --all --check
	@cargo clippy --workspace --all-targets -- -D warnings
	@cargo clippy --target $(WASM_TARGET) --package sagabox --package sagabox-probe --lib -- -D warnings
	@cargo clippy --target $(WASM_TARGET) --package sagabox --lib --features planted-faults -- -D warnings
	@cargo metadata --locked --format-version 1 --manifest-path $(FUZZ)/Cargo.toml >/dev/null
	@cargo fmt --check --manifest-path $(FUZZ)/Cargo.toml
	@cargo clippy --all-targets --no-default-features --manifest-path $(FUZZ)/Cargo.toml -- -D warnings
	@RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps

# Seconds for each fuzz target.
FUZZ_SECONDS ?= 60
CARGO_FUZZ_VERSION := 0.13.2
FUZZ := wasm-test-harness/fuzz

.PHONY: fuzz
fuzz: cargo-fuzz ## Fuzzes configurations, templates, journals and what etcd says, FUZZ_SECONDS=60 each; needs a C++ compiler (g++ or clang++)
	@export PATH="$(CARGO_TARGET_DIR)/tools/bin:$$PATH"; \
	for target in config template journal etcd; do $(FUZZ)/run $$target $(FUZZ_SECONDS); done

SAGAS ?= 200000

.PHONY: memory
memory: build ## Shows that Envoy's memory does not grow over SAGAS=200000 sagas
	@$(FIND_ENVOY) && SAGAS=$(SAGAS) cargo test --package wasm-test-harness --test trip_memory -- --ignored --nocapture

.PHONY: cost
cost: build ## Shows what a saga costs by where it is kept [COST_MODULES=name=path,...]
	@$(FIND_ENVOY) && $(FIND_ETCD) && cargo test --package wasm-test-harness --test trip_cost -- --ignored --nocapture

CARGO_LLVM_COV_VERSION := 0.9.1
# All but the saga's core. The filter's own end to Envoy is compiled into the module only.
NOT_THE_CORE := /registry/|/rustc/|/wasm-test-harness/|/src/(filter|planted|config|template|matcher|facts)

.PHONY: coverage
coverage: cargo-llvm-cov ## Shows which lines of the saga's core the scenarios and SEEDS=2000 of the simulation reach, run natively
	@export PATH="$(CARGO_TARGET_DIR)/tools/bin:$$PATH"; \
	cargo llvm-cov run --package wasm-test-harness --bin sagabox-harness --no-default-ignore-filename-regex \
	    --ignore-filename-regex '$(NOT_THE_CORE)' --show-missing-lines -- simulate --native --scenarios $(SIMULATE)

.PHONY: cargo-llvm-cov
cargo-llvm-cov:
	@if ! [ -x "$$(rustc --print target-libdir)/../bin/llvm-profdata" ]; then rustup component add llvm-tools; fi
	@if ! [ -x $(CARGO_TARGET_DIR)/tools/bin/cargo-llvm-cov ]; then \
	    cargo install --locked --root $(CARGO_TARGET_DIR)/tools cargo-llvm-cov@$(CARGO_LLVM_COV_VERSION); \
	fi

.PHONY: schema
schema: ## Writes config.schema.json anew, from the types of the configuration
	@$(HARNESS) schema > config.schema.json.new && mv config.schema.json.new config.schema.json

.PHONY: clean
clean: ## Removes what was built, the Envoy that was installed into .venv, and the etcd that was unpacked into .etcd
	@cargo clean
	@rm -rf .venv .etcd

.PHONY: wasm-target
wasm-target:
	@if ! [ -d "$$(rustc --print target-libdir --target $(WASM_TARGET))" ]; then \
	    command -v rustup >/dev/null || { echo "Rust has no $(WASM_TARGET), and there is no rustup to install it" >&2; exit 1; }; \
	    rustup target add $(WASM_TARGET); \
	fi

.PHONY: cargo-fuzz
cargo-fuzz:
	@command -v "$${CXX:-c++}" >/dev/null || { echo "libFuzzer is built with a C++ compiler, and there is none" >&2; exit 1; }
	@if [ "$$($(CARGO_TARGET_DIR)/tools/bin/cargo-fuzz --version 2>/dev/null)" != "cargo-fuzz $(CARGO_FUZZ_VERSION)" ]; then \
	    cargo install --locked --root $(CARGO_TARGET_DIR)/tools cargo-fuzz@$(CARGO_FUZZ_VERSION); \
	fi
