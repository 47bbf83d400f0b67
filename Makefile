PYTHON ?= python3
VENV ?= .venv
WORKERS ?= 2
BIN := $(VENV)/bin

.PHONY: install test test-slow lint types descriptor demo demo-encoding demo-experiments docs bench clean

# The stamp says that the environment has what setup.cfg and constraints.txt ask for.
$(BIN)/.installed: setup.cfg constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or later is needed: make PYTHON=/path/to/python3.11 ..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet -c constraints.txt -e ".[demo,nwb,mef,test,docs]"
	touch $@

install: $(BIN)/.installed

# One thread per worker: the workers share the cores.
test: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) -m "not slow"

test-slow: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) -m slow

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/hadolint Dockerfile

types: install
	$(BIN)/mypy

# boutiques.json is made from the command; a test fails when they differ.
descriptor: install
	$(BIN)/python tools/boutiques_descriptor.py

# Mel needs no weights; frames keep the time course that slow responses follow.
DEMO ?= demo
DEMO_OPTIONS ?= --target mel --pooling frames --encoder small

# Two participants at once, each in a process of its own, as on a cluster.
demo: install
	test -d $(DEMO)/data || $(BIN)/python -m bids_speechdecode.simulate $(DEMO)/data --preset demo
	printf 'sim01\nsim02\n' | xargs -P 2 -I % $(BIN)/bids_speechdecode $(DEMO)/data $(DEMO)/derivatives \
		participant --participant-label % --n-procs 1 $(DEMO_OPTIONS)
	$(BIN)/bids_speechdecode $(DEMO)/data $(DEMO)/derivatives group $(DEMO_OPTIONS)

# Six participants hear a podcast, three hear stories in a scanner; fewer people and less sound than the
# preset's, fewer epochs at the higher of the published learning rates, so that it ends in minutes.
PAIR := $(DEMO)/pair
PAIR_OPTIONS ?= --speech-layer 3 --config $(PAIR)/tuning.toml

demo-encoding: install
	test -d $(PAIR)/data || $(BIN)/python -m bids_speechdecode.simulate $(PAIR)/data --preset encoding \
		--participants 6 --podcast-minutes 12 --stories 8 --story-minutes 4
	printf '[fmri]\nepochs = 6\nlearning_rate = 5e-4\nn_validation = 1\n' > $(PAIR)/tuning.toml
	$(BIN)/bids_speechdecode $(PAIR)/data $(PAIR)/derivatives participant --analysis fmri-tuning \
		--speech-model $(PAIR)/data/sourcedata/simulation/speech_model $(PAIR_OPTIONS)
	$(BIN)/bids_speechdecode $(PAIR)/data $(PAIR)/derivatives participant --analysis encoding \
		--task-label podcast --speech-model untuned tuned $(PAIR_OPTIONS)
	$(BIN)/bids_speechdecode $(PAIR)/data $(PAIR)/derivatives group --analysis encoding

# Two participants, four days and nights, few and short recordings; responses are stronger than in the demo, so that few
# epochs show something, and turn into others from day to day.
GRID := $(DEMO)/grid
GRID_RUN = $(BIN)/bids_speechdecode $(GRID)/data $(GRID)/derivatives
GRID_OPTIONS ?= --config docs/experiments/demo.toml
GRID_EACH = printf 'sim01\nsim02\n' | xargs -P 2 -I % $(GRID_RUN) participant --participant-label % --n-procs 1

demo-experiments: install
	test -d $(GRID)/data || $(BIN)/python -m bids_speechdecode.simulate $(GRID)/data --preset demo --days 4 \
		--ambient-runs 3 --night-runs 1 --ambient-minutes 5 --audiobook-minutes 12 --best-correlation 0.25 \
		--response-drift 0.3
	$(GRID_EACH) --steps preprocess,features,select $(GRID_OPTIONS)
	$(GRID_RUN) group --pool $(GRID_OPTIONS)
	$(GRID_EACH) --experiments all $(GRID_OPTIONS)
	$(GRID_RUN) group $(GRID_OPTIONS)

# A warning is an error: a broken link, an option without a description, an example read otherwise.
docs: install
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html

bench: install
	@for bench in benchmarks/bench_*.py; do $(BIN)/python $$bench || exit 1; done

clean:
	rm -rf $(VENV) build dist docs/_build .pytest_cache .mypy_cache .ruff_cache .hypothesis
