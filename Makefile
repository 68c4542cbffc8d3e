# The two commands:  make demo   make test
# Everything fetched or built is kept in $(ODA_CACHE), outside the source tree.

SHELL := /bin/bash
export ODA_CACHE ?= $(if $(XDG_CACHE_HOME),$(XDG_CACHE_HOME),$(HOME)/.cache)/oda
export CARGO_TARGET_DIR ?= $(ODA_CACHE)/target
# one value for every clone: libtorch's bindings are rebuilt when it changes
export LIBTORCH ?= $(ODA_CACHE)/libtorch
export LD_LIBRARY_PATH := $(LIBTORCH)/lib$(if $(LD_LIBRARY_PATH),:$(LD_LIBRARY_PATH))
# without it libtorch's spinning threads train ten times slower on a busy machine
export OMP_WAIT_POLICY := PASSIVE

CARGO := cargo
ROUNDS ?= 5
CHAIN ?= embedded
# a name in models/
# a network that is kept trains a text model, which has rounds of work left for whoever joins after the table
MODEL ?= $(if $(KEEP),bytes,fashion-mnist)
# which results to make again; RESULTS_FLAGS=--quick for a look, --minutes N for a part
ONLY ?= all
# seven validators, of which one lies and one is killed; another committee of four about every two rounds
FEDERATION = --validators 7 --committee 4 --epoch-blocks 40 --liars 1 --kill --decoy-percent 30
DEMO_FLAGS = $(FEDERATION) --model models/$(MODEL).toml --rounds $(ROUNDS) --chain $(CHAIN) $(if $(KEEP),--keep) $(ARGS)

.PHONY: help setup bitcoind build demo test bench results lint env
help:
	@echo 'make demo [MODEL=bytes] [KEEP=1] [ROUNDS=5] [CHAIN=bitcoind] [ARGS=--json]   run a real network on this machine'
	@echo 'make test                                                      run every test'
	@echo 'make bench [ARGS=--quick]                                        measure consensus; tables in Markdown'
	@echo 'make results [ONLY=language] [RESULTS_FLAGS=--quick]           run the learning experiments; docs/results/'
	@echo 'make setup | build | lint | env                                the steps alone'

setup:
	@scripts/setup

bitcoind:
	@scripts/setup --bitcoind

build: setup
	@$(CARGO) build --release --locked --workspace

demo: $(if $(filter bitcoind,$(CHAIN)),bitcoind) build
	@$(if $(filter bitcoind,$(CHAIN)),BITCOIND_EXE=$${BITCOIND_EXE:-$(ODA_CACHE)/bitcoind/bin/bitcoind}) \
	  $(CARGO_TARGET_DIR)/release/testnet demo $(DEMO_FLAGS)

test: build
	@scripts/setup --bitcoind --optional
	@exe=$${BITCOIND_EXE:-$(ODA_CACHE)/bitcoind/bin/bitcoind}; \
	  if [ -x "$$exe" ]; then export BITCOIND_EXE="$$exe"; else unset BITCOIND_EXE; fi; \
	  $(CARGO) test --release --locked --workspace

bench: build
	@$(CARGO) bench --locked --workspace --bench consensus --bench delta --bench payments --bench ledger --bench blobs --bench rpc
	@$(CARGO_TARGET_DIR)/release/testnet bench $(ARGS)
	@$(CARGO_TARGET_DIR)/release/simnet beacon-bias --trials 1000
	@echo 'Repeat: make bench   one part: cargo bench --workspace --bench consensus -- FILTER, testnet bench --only PART'

results: setup
	@$(CARGO) build --release --locked --workspace --example results
	@$(CARGO_TARGET_DIR)/release/examples/results $(ONLY) $(RESULTS_FLAGS)

lint: setup
	@$(CARGO) fmt --all --check
	@$(CARGO) clippy --release --locked --workspace --all-targets -- -D warnings

env:
	@echo "export LIBTORCH=$(LIBTORCH) CARGO_TARGET_DIR=$(CARGO_TARGET_DIR) OMP_WAIT_POLICY=PASSIVE"
	@echo "export LD_LIBRARY_PATH=$(LIBTORCH)/lib PATH=$(CARGO_TARGET_DIR)/release:\$$PATH"
