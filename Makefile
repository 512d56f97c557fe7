# The commands of this project. `make` alone lists them.

CARGO := cargo
# Where `make lint` and `make test` run, nothing may change the lock file behind our back.
LOCKED := --locked
# How many times as long `make soak` makes the long tests, here and in the virtual machine; and which
# those are.
SOAK := 20
SOAK_VM := 5
# The long tests: whole programs, and modules of others.
LONG := shadow move_faults
LONG_IN := moving eviction process
LONG_TESTS := matrix:: torture:: working_sets:: purge:: allocation_failures::
LONG_VM := test-shadow;test-move_faults;test-moving matrix:: torture::;test-eviction working_sets:: purge::;test-process allocation_failures::

.DEFAULT_GOAL := help
.PHONY: help apps apps-figures guest prime stream demo devices doctor check test test-native driver-sim model vm soak lint shaders figures hardware clean-deps

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

prime: ## draw on one device, present on another, in a window; ARGS="--headless …" without one
	@.ci/setup demo
	@cd apps && $(CARGO) run $(LOCKED) --release --quiet --bin prime -- $(ARGS)

stream: ## fly over a map that is larger than the memory for it, in a window; ARGS as above
	@.ci/setup demo
	@cd apps && $(CARGO) run $(LOCKED) --release --quiet --bin stream -- $(ARGS)

doctor: ## whether this machine is ready, and if not, what to do (no setup)
	@$(CARGO) build $(LOCKED) --features cli --release
	@$(CARGO) run $(LOCKED) --features cli --release --quiet -- doctor

check: ## before every commit: lint, unit tests, and a test of each promise (no setup)
	.ci/names
	$(CARGO) fmt --all --check
	$(CARGO) clippy $(LOCKED) --features cli,testing --all-targets -- -D warnings
	$(CARGO) test $(LOCKED) --features cli,testing --lib --test house
	$(CARGO) test $(LOCKED) --features cli,testing $$(sed -n 's/^test-\([^ ]*\) .*/--test \1/p' .ci/smoke-tests) \
		-- $$(sed -n 's/^test-[^ ]* //p' .ci/smoke-tests)

test: ## everything: test-native, model, then vm
	@.ci/setup test
	@$(MAKE) --no-print-directory test-native
	@$(MAKE) --no-print-directory model
	@$(MAKE) --no-print-directory vm

test-native: ## the tests on this machine's Vulkan drivers (no setup)
	$(CARGO) test $(LOCKED) --features cli,testing
	$(CARGO) test $(LOCKED) -p driver-sim

driver-sim: ## the suites under simulated drivers: a table, profile by suite (no setup)
	.ci/driver-sim

apps: ## lint and test the programs in apps/, without a display, under X11 and under Wayland
	@.ci/setup apps
	cd apps && $(CARGO) fmt --check
	cd apps && $(CARGO) clippy $(LOCKED) --all-targets -- -D warnings
	cd apps && $(CARGO) test $(LOCKED)

apps-figures: ## what frames of the programs in apps/ cost, beside the same by hand (no setup)
	cd apps && $(CARGO) bench $(LOCKED) --bench frames

guest: ## lint and test wgpu/: shared images and buffers in wgpu, and a program that draws with them
	@.ci/setup test
	cd wgpu && $(CARGO) fmt --all --check
	cd wgpu && $(CARGO) clippy $(LOCKED) --workspace --all-targets -- -D warnings
	cd wgpu && RUSTDOCFLAGS="-D warnings" $(CARGO) doc $(LOCKED) --no-deps --workspace
	cd wgpu && $(CARGO) test $(LOCKED) --workspace

# With a target of its own, so that neither build undoes the other, and build scripts are made once.
MODEL := --lib --target $$(rustc --print host-tuple)
model: export RUSTFLAGS := --cfg peerbuf_shuttle
model: ## locks, fences and the move in thousands of interleavings (no setup)
	$(CARGO) test $(LOCKED) $(MODEL) -- model::

vm: ## in a virtual machine, what only real dma-bufs can show (no setup)
	.ci/vm

soak: ## the long tests for longer, and all of them in the virtual machine if it is there: hours (no setup)
	SOAK=$(SOAK) $(CARGO) test $(LOCKED) --features cli,testing $(LONG:%=--test %)
	SOAK=$(SOAK) $(CARGO) test $(LOCKED) --features cli,testing $(LONG_IN:%=--test %) -- $(LONG_TESTS)
	SOAK=$(SOAK) $(CARGO) test $(LOCKED) --features cli,testing --lib residency
	SOAK=$(SOAK) $(MAKE) --no-print-directory model
	@if [ -e target/deps/kernel/vmlinuz ]; then \
		SOAK=1 VM_TESTS=all .ci/vm && \
		SOAK=$(SOAK_VM) VM_TESTS="$(LONG_VM)" .ci/vm; \
	else \
		echo "soak: no virtual machine here: .ci/setup test prepares it"; \
	fi

lint: ## formatting, clippy with and without the program, documentation, lists of tests
	$(CARGO) fmt --all --check
	$(CARGO) clippy $(LOCKED) --features cli,testing --all-targets -- -D warnings
	$(CARGO) clippy $(LOCKED) --all-targets -- -D warnings
	$(CARGO) clippy $(LOCKED) -p driver-sim --all-targets -- -D warnings
	RUSTFLAGS="--cfg peerbuf_shuttle" $(CARGO) clippy $(LOCKED) --profile test $(MODEL) -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc $(LOCKED) --no-deps --workspace
	.ci/names

shaders: ## compile every .wgsl file to the .spv file beside it; commit both (no setup)
	WRITE_SHADERS=1 $(CARGO) test $(LOCKED) --test shaders

figures: ## the project's own speed figures, each beside its baseline
	$(CARGO) bench $(LOCKED) --features cli,testing --bench figures

hardware: ## what this machine's GPUs do, in ten minutes: one file under benches/hardware/ (no setup)
	$(CARGO) bench $(LOCKED) --features cli --bench hardware

clean-deps: ## forget what .ci/setup unpacked
	rm -rf target/deps target/vm
