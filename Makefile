# Everything a person or CI does here. A fresh Debian with Rust, a C compiler and make is enough:
# `make run` and `make test` install what else is needed.

CARGO ?= cargo
# Tests run in folders of their own, where a relative path would name nothing.
TARGET := $(abspath $(or $(CARGO_TARGET_DIR),target))

.PHONY: help setup run test lint bench soak

help:
	@echo "make run     run the gateway with a sample service behind it, and show three calls to try"
	@echo "make test    run all tests, the end-to-end tests against the release binary"
	@echo "make lint    check format, lints and the shipped configuration"
	@echo "make bench   measure decisions and look-ups, and the whole gateway against bare Pingora"
	@echo "make soak    run the long tests"
	@echo "make setup   install what the build needs (all of the above but lint do it by themselves)"

# cmake builds zlib-ng, which Pingora's compression links.
setup:
	@command -v $(CARGO) >/dev/null || { echo "error: install Rust first: https://rustup.rs" >&2; exit 1; }
	@command -v cmake >/dev/null && exit 0; \
	if ! command -v apt-get >/dev/null; then \
		echo "error: install cmake with your package manager, then try again" >&2; exit 1; \
	fi; \
	root=; \
	if [ "$$(id -u)" != 0 ]; then \
		command -v sudo >/dev/null || { \
			echo "error: as root, run: apt-get install cmake" >&2; exit 1; }; \
		root=sudo; \
	fi; \
	echo "installing cmake"; \
	$$root apt-get update -qq && \
	$$root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends cmake

run: setup
	$(CARGO) run --release -p keygate -- demo

test: setup
	$(CARGO) build --release -p keygate
	KEYGATE_BIN=$(TARGET)/release/keygate $(CARGO) test --workspace

lint: setup
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	$(CARGO) run -q -p keygate -- check gateway.toml
	@if $(CARGO) deny --version >/dev/null 2>&1; then \
		$(CARGO) deny --config .deny.toml check; \
	else \
		echo "cargo-deny is not installed: licences, advisories and crate edges go unchecked"; \
	fi

bench: setup
	$(CARGO) bench -p keygate

soak: setup
	$(CARGO) build --release -p keygate
	KEYGATE_BIN=$(TARGET)/release/keygate $(CARGO) test -p keygate --test e2e -- --ignored --nocapture
