# Every target sets up what it needs first (deploy/setup.sh); that is quick when nothing changed.
# Pass options on with ARGS, e.g. make demo ARGS="--model-url http://127.0.0.1:8000/v1"

PYTHON := .venv/bin/python
BENCHMARKS := $(filter-out __init__,$(sort $(basename $(notdir $(wildcard benchmarks/*.py)))))
PICTURES := $(sort $(basename $(notdir $(wildcard docs/pictures/*.py))))

.PHONY: client docs-pictures help setup demo serve test check format bench lock images images-docker cluster cluster-down

help:
	@echo "make demo    five held-out repositories, repaired over REST by the model that ships with the project"
	@echo "make serve   REST API, worker and embedded model server on this machine"
	@echo "make test    all tests"
	@echo "make check   format, lint, types, import contracts, doc examples"
	@echo "make bench   every benchmark; tables in build/bench/"
	@echo "make docs-pictures  the pictures of the documentation, from the running product"
	@echo "make client  the API's description, and the client that is written from it"
	@echo "make format  format and fix what can be fixed"
	@echo "make cluster a whole Kubernetes on this machine, as root; prints its kubeconfig; make cluster-down ends it"
	@echo "make images  the images of the service, without Docker and a registry; into build/images"
	@echo "make images-docker  has Docker build every Dockerfile over bases of this machine, and compares; as root"
	@echo "make lock    write requirements/*.txt anew from pyproject.toml (ARGS=--upgrade for newest versions)"

setup:
	@deploy/setup.sh

demo: setup
	$(PYTHON) -m evals.demo $(ARGS)

serve: setup
	.venv/bin/mimo serve $(ARGS)

test: setup
	@deploy/setup.sh --for-tests
	$(PYTHON) -m pytest --numprocesses=2 $(ARGS)

check: setup
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy
	.venv/bin/lint-imports
	$(PYTHON) -m pytest --doctest-modules --ignore=agent/store/migrations sandbox agent model_server evals training tests/docs

format: setup
	.venv/bin/ruff format .
	.venv/bin/ruff check --fix .

bench: setup
	@mkdir -p build/bench
	@set -e; for name in $(BENCHMARKS); do echo "== $$name"; $(PYTHON) -m benchmarks.$$name; done

images: setup
	@$(PYTHON) -m deploy.images $(ARGS)

images-docker: setup
	@deploy/setup.sh --for-tests
	MIMO_TEST_LONG_BUILDS=1 $(PYTHON) -m pytest tests/integration/deploy/test_docker_build.py $(ARGS)

client: setup
	$(PYTHON) -m deploy.openapi
	$(PYTHON) -m deploy.client

docs-pictures: setup
	@deploy/setup.sh --for-tests
	@set -e; for name in $(PICTURES); do $(PYTHON) -m docs.pictures.$$name; done

cluster: setup
	@deploy/setup.sh --for-cluster
	@$(PYTHON) -m deploy.cluster up $(ARGS)

cluster-down: setup
	@$(PYTHON) -m deploy.cluster down $(ARGS)

lock: setup
	deploy/lock.sh $(ARGS)
