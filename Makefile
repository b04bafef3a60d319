# `make demo` and `make test` set up what they need by themselves; see README.md.
SHELL := /bin/bash
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
READY := $(VENV)/.ready
PIP = $(PY) -m pip install --progress-bar off --disable-pip-version-check
# With the address of PyTorch's index of CPU wheels, torch comes from there, and CUDA's packages stay away.
TORCH_CPU_INDEX ?=
LOCK = $(if $(TORCH_CPU_INDEX),<(awk '/^[a-z]/ {torch = /^(torch|torchaudio|triton|(nvidia|cuda)-[a-z0-9-]+)==/} !torch' requirements.lock),requirements.lock)
CLIENTS := tests/clients/node_modules/.ready
LITELLM := $(VENV)/litellm/.ready
FIRST := tests/align tests/api tests/audio tests/bench tests/jobs tests/live
SECOND := tests/manifests tests/model tests/notebooks tests/pipelines tests/settings tests/text
SOAK_S ?= 600
PORT ?= 8080

PREDICTOR_IMAGE ?= registry.example.com/qwen3-asr/predictor
PIPELINES_IMAGE ?= registry.example.com/qwen3-asr/pipelines
VERSION ?= 0.1.0
BUILD_FLAGS ?= --load
HOST ?= http://127.0.0.1:8080
LOAD ?= --users 4 --rate 2 --run-time 30s

.PHONY: help setup demo serve test soak lint format lock clean image image-gpu image-cpu image-pipelines image-pipelines-gpu kind manifests notebooks load

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 18

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Python 3.11 or newer is needed; set PYTHON=/path/to/python3"; exit 1; }
	@test -x $(PY) || $(PYTHON) -m venv $(VENV)
	@echo "Installing the locked packages into $(VENV): 5 to 10 minutes the first time, 9 GB of disk at its peak" \
	  $(if $(TORCH_CPU_INDEX),"(much less with torch for CPUs)")
	@test "$$(df -Pk . | awk 'NR == 2 {print $$4}')" -ge 9000000 || echo "warning: less than 9 GB are free here"
	@$(if $(TORCH_CPU_INDEX),$(PIP) --no-deps --index-url $(TORCH_CPU_INDEX) \
	  $$(sed -n 's/^\(torch\|torchaudio\)==\([^ ;]*\).*/\1==\2+cpu/p' requirements.lock))
	@set -o pipefail; $(PIP) --require-hashes -r $(LOCK) $(if $(TORCH_CPU_INDEX),--no-deps) \
	  | sed -unE '/^(Collecting|Installing|Successfully|  Downloading)/s/^(.{0,100}).*/\1/p'
	@$(PY) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

setup: $(READY) ## create .venv with the locked packages

demo: setup ## start the server on the embedded checkpoint and transcribe the bundled recordings
	@$(PY) -m predictor.demo --port $(PORT)

serve: setup ## keep the server running on the embedded checkpoint
	@exec $(PY) -m predictor.demo --serve --port $(PORT)

lint: setup ## ruff and mypy
	@$(PY) -m ruff check . && $(PY) -m ruff format --check . && $(PY) -m mypy

format: setup ## let ruff rewrite the files
	@$(PY) -m ruff check --fix . && $(PY) -m ruff format .

# Most tests wait for other processes, so three parts run side by side, each with one thread for torch:
# threads that wait for each other on a busy processor would be several times as slow.
test: setup lint $(CLIENTS) $(LITELLM) ## everything that needs no GPU and no cluster
	@export OMP_NUM_THREADS=1; exec 3>&1; \
	  TESTS_SAID_ON=3 $(PY) -m pytest -q -rs $(FIRST) > $(VENV)/first.log 2>&1 & first=$$!; \
	  TESTS_SAID_ON=3 $(PY) -m pytest -q -rs $(SECOND) > $(VENV)/second.log 2>&1 & second=$$!; \
	  $(PY) -m pytest -q -rs $(addprefix --ignore=,$(FIRST) $(SECOND)); status=$$?; \
	  wait $$first || status=1; cat $(VENV)/first.log; \
	  wait $$second || status=1; cat $(VENV)/second.log; \
	  exit $$status

soak: setup ## the long tests: hostile requests for SOAK_S seconds, whole sets through live sessions
	@SOAK_S=$(SOAK_S) $(PY) -m pytest -q -s --timeout=0 tests/chaos
	@SOAK_S=$(SOAK_S) $(PY) -m pytest -q -s --timeout=0 -m soak

$(CLIENTS): tests/clients/package-lock.json
	@if command -v npm >/dev/null; \
	  then npm --prefix tests/clients ci --silent --no-audit --no-fund && touch $@; \
	  else echo "npm is not installed: Node's clients will NOT be tested"; fi

# Beside the locked packages, since it asks for other versions of some; without what only its proxy needs.
$(LITELLM): tests/clients/litellm.txt | setup
	@$(PIP) --quiet --require-hashes --no-deps --upgrade --target $(@D) -r $< && touch $@ \
	  || echo "LiteLLM could not be installed: it will NOT be tested"

lock: setup ## write requirements.lock anew from pyproject.toml
	@$(PY) -m pip install --quiet uv && $(VENV)/bin/uv pip compile --quiet --universal --python-version 3.11 \
	  --generate-hashes --no-emit-index-url --no-annotate --no-header --extra dev --output-file requirements.lock pyproject.toml

notebooks: setup ## run the notebooks on the embedded checkpoints, as HTML into out/notebooks
	@$(PY) -m tests.notebooks.render --out out/notebooks

load: setup ## open-arrival load test: make load HOST=http://… [LOAD='--users 8 --rate 10 --run-time 60s']
	@$(PY) -m locust --locustfile tests/load/locustfile.py --headless --only-summary --host $(HOST) $(LOAD)

manifests: setup ## build and validate every overlay and component, alerts and dashboard
	@$(PY) -m pytest -q tests/manifests

image: image-gpu image-cpu image-pipelines image-pipelines-gpu ## build all images (BUILD_FLAGS='--push --sbom=true' for a registry)

image-gpu image-cpu: image-%:
	docker buildx build --file predictor/Dockerfile --build-arg VARIANT=$* --build-arg TORCH_CPU_INDEX \
	  --tag $(PREDICTOR_IMAGE):$(VERSION)-$* $(BUILD_FLAGS) .

image-pipelines:
	docker buildx build --file pipelines/Dockerfile --tag $(PIPELINES_IMAGE):$(VERSION) $(BUILD_FLAGS) .

image-pipelines-gpu:
	docker buildx build --file pipelines/Dockerfile --build-arg VARIANT=gpu \
	  --tag $(PIPELINES_IMAGE):$(VERSION)-gpu $(BUILD_FLAGS) .

kind: ## bring overlays/dev-cpu up on a kind cluster with KServe (docker, kind, kubectl)
	manifests/kind/up.sh

clean: ## remove .venv and caches
	@rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis dist build tests/clients/node_modules
