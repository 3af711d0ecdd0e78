# What one types. `make demo` and `make test` start from a fresh Debian 12 with the Rust toolchain and nothing else.

# Where the demo finds its model: a spec, a tokenizer and real weights.
MODEL ?= examples/tiny-hybrid
PROMPT ?= Once upon a time there was a
CARGO ?= cargo

.PHONY: demo test bless lint setup build help

help: ## these lines
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' Makefile

demo: setup ## compile the small hybrid for this CPU and stream text from its real weights
	$(CARGO) build --release -p braid-compiler -p braid-runtime
	"$${CARGO_TARGET_DIR:-target}/release/braid" run $(MODEL) --prompt "$(PROMPT)" --max-tokens 120 --temperature 0.8 --seed 1

build: setup ## the two programs: target/release/braid and target/release/braid-run
	$(CARGO) build --release -p braid-compiler -p braid-runtime

test: setup ## every test; the last line is the test runner's own
	$(CARGO) test --workspace --doc --quiet
	BRAID_PTXAS="$$(.ci/ptxas)" $(CARGO) test --workspace --lib --bins --tests

bless: setup ## accept the snapshots as they come out now; look at `git diff` before you commit
	BRAID_PTXAS="$$(.ci/ptxas)" INSTA_UPDATE=always INSTA_FORCE_PASS=1 $(CARGO) test --workspace --lib --bins --tests

lint: setup ## formatting, clippy, and who may link LLVM
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	@.ci/boundaries

setup: ## install the Debian packages that are missing
	@.ci/setup
