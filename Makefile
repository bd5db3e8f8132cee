# Every target sets up what it needs on first use, in .venv or in the environment that VENV=path names.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
comma := ,
# This checkout goes before any other that the same environment was made for.
RUN = PYTHONPATH="$(CURDIR)$${PYTHONPATH:+:$$PYTHONPATH}" $(BIN)/python
# What the tests run on: TESTS=tests/metrics narrows test-fast and test-slow.
TESTS :=

.PHONY: test test-fast test-slow test-peers test-integrations mutate gallery demo check format bench clean

define install
	@$(PYTHON) .ci/environment.py $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --editable ".[$(1)]"
endef

$(VENV)/.ready-demo: pyproject.toml
	$(call install,demo)
	@touch $@

$(VENV)/.ready-dev: pyproject.toml
	$(call install,dev)
	@touch $(VENV)/.ready-demo $@

$(VENV)/.ready-peers: pyproject.toml
	$(call install,dev$(comma)peers)
	@touch $(VENV)/.ready-demo $(VENV)/.ready-dev $@

$(VENV)/.ready-integrations: pyproject.toml
	$(call install,dev$(comma)integrations)
	@touch $(VENV)/.ready-demo $(VENV)/.ready-dev $@

# .ci/fast_seconds is what the fast tests take on two common cores. On a day four times slower the slow ones are left out.
test: $(VENV)/.ready-dev
	@usual=$$(cat .ci/fast_seconds); start=$$(date +%s); \
	$(MAKE) --no-print-directory test-fast || exit 1; \
	took=$$(($$(date +%s) - start)); echo "fast tests: $$took s"; \
	if [ $$took -gt $$((4 * usual)) ]; then \
		echo "The slow tests are left out: the fast ones took $$took s, over four times the usual $$usual s. make test-slow runs them."; \
		exit 0; \
	fi; \
	start=$$(date +%s); \
	$(MAKE) --no-print-directory test-slow || exit 1; \
	echo "slow tests: $$(($$(date +%s) - start)) s"

test-fast: $(VENV)/.ready-dev
	$(RUN) -m pytest -n 2 -m "not slow" $(TESTS)

test-slow: $(VENV)/.ready-dev
	@$(RUN) -m pytest -n 2 -m "slow and not integrations" $(TESTS) || { \
		code=$$?; [ $$code -ne 5 ] || echo "No test is marked slow: nothing was checked."; exit $$code; }

test-peers: $(VENV)/.ready-peers
	$(RUN) -m pytest -m peers

test-integrations: $(VENV)/.ready-integrations
	$(RUN) -m pytest -m integrations tests/integrations

mutate: $(VENV)/.ready-dev
	$(RUN) tests/mutate.py

gallery: $(VENV)/.ready-dev
	$(RUN) examples/gallery.py

demo: $(VENV)/.ready-demo
	$(RUN) examples/demo.py

check: $(VENV)/.ready-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.ready-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.ready-dev
	$(RUN) benchmarks/cost_of_a_look.py

clean:
	rm -rf .venv build dist *.egg-info demo_logs
