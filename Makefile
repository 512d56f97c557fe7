# The commands of this project. `make` alone lists them.

CARGO := cargo
# Where `make lint` and `make test` run, nothing may change the lock file behind our back.
LOCKED := --locked
# How many times as long `make soak` makes the long tests, here and in the virtual machine; and which
# those are.
SOAK := 20
SOAK_VM := 5
LONG := matrix shadow torture move_faults working_sets purge allocation_failures

.DEFAULT_GOAL := help
.PHONY: help demo devices test test-native model vm soak lint figures clean-deps

help: ## what there is
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 22

demo: ## share one buffer among all devices here, and check every byte
	@.ci/setup demo
	@$(CARGO) build $(LOCKED) --features cli --release
	@$(CARGO) run $(LOCKED) --features cli --release --quiet -- demo

devices: ## the devices here, and which route leads from each to each
	@.ci/setup demo
	@$(CARGO) build $(LOCKED) --features cli --release
	@$(CARGO) run $(LOCKED) --features cli --release --quiet -- devices

test: ## everything: test-native, model, then vm
	@.ci/setup test
	@$(MAKE) --no-print-directory test-native
	@$(MAKE) --no-print-directory model
	@$(MAKE) --no-print-directory vm

test-native: ## the tests on this machine's Vulkan drivers (no setup)
	$(CARGO) test $(LOCKED) --features cli

# With a target of its own, so that neither build undoes the other, and build scripts are made once.
MODEL := --lib --target $$(rustc --print host-tuple)
model: export RUSTFLAGS := --cfg peerbuf_shuttle
model: ## locks, fences and the move in thousands of interleavings (no setup)
	$(CARGO) test $(LOCKED) $(MODEL) -- model::

vm: ## the tests in a virtual machine, over real dma-bufs (no setup)
	.ci/vm

soak: ## the long tests, half an hour or so; in the virtual machine too if it is there (no setup)
	SOAK=$(SOAK) $(CARGO) test $(LOCKED) --features cli $(LONG:%=--test %)
	SOAK=$(SOAK) $(CARGO) test $(LOCKED) --features cli --lib residency
	SOAK=$(SOAK) $(MAKE) --no-print-directory model
	@if [ -e target/deps/kernel/vmlinuz ]; then \
		SOAK=$(SOAK_VM) VM_TESTS="$(LONG)" VM_TIMEOUT=1800 VM_TEST_TIMEOUT=900 .ci/vm; \
	else \
		echo "soak: no virtual machine here: .ci/setup test prepares it"; \
	fi

lint: ## formatting, clippy with and without the program, documentation
	$(CARGO) fmt --check
	$(CARGO) clippy $(LOCKED) --features cli --all-targets -- -D warnings
	$(CARGO) clippy $(LOCKED) --all-targets --no-default-features -- -D warnings
	RUSTFLAGS="--cfg peerbuf_shuttle" $(CARGO) clippy $(LOCKED) --profile test $(MODEL) -- -D warnings
	$(CARGO) build $(LOCKED) --lib --no-default-features
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc $(LOCKED) --no-deps

figures: ## the project's own speed figures, each beside its baseline
	$(CARGO) bench $(LOCKED) --bench figures

clean-deps: ## forget what .ci/setup unpacked
	rm -rf target/deps target/vm
