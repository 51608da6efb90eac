# Everything a person or CI does here. A fresh Debian with Rust, a C compiler and make is enough:
# `make run` and `make test` install what else is needed.

CARGO ?= cargo
# Rounds of each fault in `make soak`.
CHAOS_ROUNDS ?= 200
# The version that CI builds; any other that is installed will do.
CARGO_DENY ?= 0.20.2
# Debian puts servers where only root looks.
export PATH := $(PATH):/usr/sbin:/sbin
# Tests run in folders of their own, where a relative path would name nothing.
TARGET := $(abspath $(or $(CARGO_TARGET_DIR),target))

.PHONY: help setup setup-tests setup-bench setup-fuzz setup-deny run test build-release build-tests instructions \
	lint deny bench soak fuzz fuzz-api

help:
	@echo "make run     run the gateway with a sample service behind it, and show three calls to try"
	@echo "make test    run all tests, the end-to-end tests against the release binary"
	@echo "make lint    check format, lints, the shipped configuration and (make deny) what is linked"
	@echo "make bench   measure everything, against bare Pingora, nginx and HAProxy (benches/README.md)"
	@echo "make soak    run the long tests"
	@echo "make fuzz    fuzz each reader of foreign bytes for SECONDS (60), with libFuzzer"
	@echo "make fuzz-api  fuzz the admin API by its own description (needs Python, and PyPI once)"
	@echo "make setup   install what the build needs, setup-tests what the tests need besides (all of the"
	@echo "             above do it by themselves)"

# Commands, each with the Debian package that has it. cmake builds zlib-ng, which Pingora's
# compression links.
setup: TOOLS = cmake:cmake redis-server:redis-server
# What the tests talk to the gateway with, what stands behind it there and what watches it; all on ports
# of their own. Where systemd runs, Debian starts nginx, Redis and Prometheus as services too: nobody here
# uses those, and the tests care for none of their ports.
setup-tests: TOOLS = nginx:nginx-light h2load:nghttp2-client curl:curl openssl:openssl \
	prometheus:prometheus promtool:prometheus tmux:tmux valgrind:valgrind
setup-tests: setup
# Who the gateway is measured against. HAProxy is a service where systemd runs, and in nobody's way either.
setup-bench: TOOLS = haproxy:haproxy
setup-bench: FILES = /usr/lib/nginx/modules/ngx_http_lua_module.so:libnginx-mod-http-lua
setup-bench: setup-tests
# libFuzzer is C++.
setup-fuzz: TOOLS = c++:g++
setup-fuzz: setup
# Who checks what is linked. CI builds it too.
setup-deny: setup
	@$(CARGO) deny --version >/dev/null 2>&1 || \
		$(CARGO) install --quiet --locked --debug cargo-deny@$(CARGO_DENY)
setup setup-tests setup-fuzz: FILES =
setup setup-tests setup-bench setup-fuzz:
	@command -v $(CARGO) >/dev/null || { echo "error: install Rust first: https://rustup.rs" >&2; exit 1; }
	@missing=; \
	for tool in $(TOOLS); do \
		command -v "$${tool%%:*}" >/dev/null || missing="$$missing $${tool##*:}"; \
	done; \
	for file in $(FILES); do test -e "$${file%%:*}" || missing="$$missing $${file##*:}"; done; \
	test -n "$$missing" || exit 0; \
	if ! command -v apt-get >/dev/null; then \
		echo "error: with your package manager, install$$missing, then try again" >&2; exit 1; \
	fi; \
	root=; \
	if [ "$$(id -u)" != 0 ]; then \
		command -v sudo >/dev/null || { \
			echo "error: as root, run: apt-get install$$missing" >&2; exit 1; }; \
		root=sudo; \
	fi; \
	echo "installing$$missing"; \
	$$root apt-get update -qq && \
	$$root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing

run: setup
	$(CARGO) run --release -p keygate -- demo

# Optimising the release as a whole takes one core: the tests are built beside it.
test: setup-tests
	$(MAKE) -j2 build-release build-tests
	KEYGATE_BIN=$(TARGET)/release/keygate $(CARGO) test --workspace
	$(MAKE) instructions

build-release:
	$(CARGO) build --release -p keygate

build-tests:
	$(CARGO) test --workspace --no-run
	$(CARGO) bench -q -p keygate-proxy --profile counted --bench instructions --no-run

# A count that does not move with the machine's noise. RENEW=1 writes down what there is now.
instructions:
	$(CARGO) bench -q -p keygate-proxy --profile counted --bench instructions -- \
		$(if $(RENEW),renew,check)

lint: setup
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	$(CARGO) run -q -p keygate -- check gateway.toml
	@if command -v systemd-analyze >/dev/null; then \
		folder=$$(mktemp -d) && \
		sed 's#/usr/local/bin/keygate#/bin/true#' deploy/systemd/keygate.service \
			> "$$folder/keygate.service" && \
		systemd-analyze verify "$$folder/keygate.service"; status=$$?; rm -r "$$folder"; exit $$status; \
	else \
		echo "systemd is not installed: its unit goes unchecked"; \
	fi
	@if command -v promtool >/dev/null; then \
		said=$$(cd deploy/prometheus && promtool check config prometheus.yml 2>&1 && \
			promtool test rules keygate.rules.test.yml 2>&1) || { echo "$$said" >&2; exit 1; }; \
	else \
		echo "promtool is not installed: the alert rules go unchecked here, and are checked by make test"; \
	fi
	@$(MAKE) --no-print-directory deny

# Licences, sources and who may link what need no network. Advisories come from a database on GitHub: if it
# cannot be reached that is said, and all goes on. One about something that is linked here fails.
deny:
	@if ! $(CARGO) deny --version >/dev/null 2>&1; then \
		echo "cargo-deny is not installed (make setup-deny):" \
			"licences, advisories and crate edges go unchecked"; \
		exit 0; \
	fi; \
	$(CARGO) deny --log-level error --config .deny.toml check bans licenses sources || exit 1; \
	if timeout 120 $(CARGO) deny --config .deny.toml fetch db; then \
		$(CARGO) deny --config .deny.toml --offline check advisories; \
	else \
		echo "advisories: the database cannot be reached, so known vulnerabilities go UNCHECKED"; \
	fi

# A folder of its own for each run. Everything is built before the first is measured.
bench: RUN := $(shell run=benches/runs/$$(date +%F); ! test -e $$run || run=$$run-$$(date +%H%M%S); echo $$run)
bench: BENCH = $(CARGO) bench -q -p keygate --bench
bench: INSTRUCTIONS = $(CARGO) bench -q -p keygate-proxy --profile counted --bench instructions
bench: setup-bench
	$(CARGO) bench -p keygate --no-run
	$(INSTRUCTIONS) --no-run
	@$(BENCH) report -- machine $(RUN)
	@set -e; for bench in decide lookup limits memory cold; do \
		echo "== $$bench"; $(BENCH) $$bench > $(RUN)/$$bench.txt; cat $(RUN)/$$bench.txt; \
	done
	@set -e; for bench in end_to_end scale revocation fleet_limits access_log floods timing tls; do \
		echo "== $$bench"; $(BENCH) $$bench -- out=$(CURDIR)/$(RUN) > $(RUN)/$$bench.txt; \
		cat $(RUN)/$$bench.txt; \
	done
	@echo "== instructions"; $(INSTRUCTIONS) -- out=$(CURDIR)/$(RUN) > $(RUN)/instructions.txt; \
		cat $(RUN)/instructions.txt
	@$(BENCH) report -- pictures $(RUN)
	@$(BENCH) report -- readme $(RUN)

# One test at a time: what is measured is not to be disturbed.
soak: export KEYGATE_BIN = $(TARGET)/release/keygate
soak: E2E = $(CARGO) test -p keygate --test e2e -- --nocapture --test-threads=1
soak: setup-tests
	$(CARGO) build --release -p keygate
	$(E2E) --ignored
	CHAOS_ROUNDS=$(CHAOS_ROUNDS) $(E2E) chaos
	OUTAGE_MS=60000 $(E2E) fleet_outage
	RELOADS=1000 $(E2E) hot_reload
	SERIES=1000000 $(E2E) series
	KEYGATE_BIN=$(KEYGATE_BIN) tests/fuzz_api/run

# What cargo-fuzz sets but for the sanitizers, which need a nightly compiler; the code has nothing unsafe.
# The corpora are read, and what is new is kept beside them; a finding lies in fuzz/artifacts.
SECONDS ?= 60
FUZZED ?= credential key chunks route config record change import
fuzz: HOST := $(shell rustc -vV | sed -n 's/^host: //p')
fuzz: export RUSTFLAGS = --cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
	-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
	-Cllvm-args=-sanitizer-coverage-trace-compares
fuzz: setup-fuzz
	$(CARGO) build --release --manifest-path fuzz/Cargo.toml --target $(HOST)
	@set -e; for name in $(FUZZED); do \
		echo "== $$name"; mkdir -p fuzz/new/$$name fuzz/artifacts; \
		fuzz/target/$(HOST)/release/$$name fuzz/new/$$name fuzz/corpus/$$name -max_len=4096 -timeout=10 \
			-max_total_time=$(SECONDS) -artifact_prefix=fuzz/artifacts/$$name- -print_final_stats=1 \
			> fuzz/artifacts/$$name.log 2>&1 || { tail -n 40 fuzz/artifacts/$$name.log; exit 1; }; \
		grep -E '^stat::number_of_executed_units|^Done' fuzz/artifacts/$$name.log; \
	done

fuzz-api: setup
	$(CARGO) build --release -p keygate
	KEYGATE_BIN=$(TARGET)/release/keygate tests/fuzz_api/run
