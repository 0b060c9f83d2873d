# Thoraq's commands. Python 3.11, 3.12 or 3.13 and make are all they need; everything else comes from locks/all.lock.
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
.PHONY: help setup run demo docs test test-unit test-big test-compose lint lint-types bench chaos siege fuzz train evaluate lock tools secrets certificate compose-check data-given

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
BENCH_READY := $(VENV)/.bench-ready
BUNDLE := models/thoraq-4
# Every folder at the root that holds Python.
CODE = $(sort $(patsubst %/,%,$(dir $(wildcard */*.py))))

# The first Python that starts and has the right version: a name on PATH may be a shim with nothing behind it. Without
# one, python3 is asked, which says what it lacks.
PYTHON ?= $(shell for name in python3.12 python3.13 python3.11 python3; do \
	"$$name" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null && echo "$$name" && exit; done; echo python3)

# $(call option,NAME,VALUE): `--name 'value'` when the variable was given, nothing otherwise.
option = $(if $(2),--$(1) '$(2)')
# 64 random characters, without needing anything but POSIX.
random := head -c 32 /dev/urandom | od -An -v -tx1 | tr -d ' \n'

# $(APT) NAME: install a Debian package, saying so.
APT := export DEBIAN_FRONTEND=noninteractive; install() { echo "installing Debian's $$1"; apt-get update -qq && \
	apt-get install -y -qq --no-install-recommends "$$1" >/dev/null; }; install

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | while IFS="$$(printf '\t')" read -r name text; do \
		printf '  make %-15s %s\n' "$$name" "$$text"; done

setup: $(READY) ## everything that the other commands need, into .venv; costs nothing the second time

$(READY): locks/all.lock pyproject.toml shared/version.py
	@command -v "$(PYTHON)" >/dev/null || { echo "Thoraq needs Python 3.11, 3.12 or 3.13, and $(PYTHON) is not there (set PYTHON=/path/to/python3.13)." >&2; exit 1; }
	@"$(PYTHON)" standalone/supported.py
	@# Debian's python3 comes without ensurepip; as root, in a container for instance, its package is one step away.
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { [ "$$(id -u)" = 0 ] && $(APT) python3-venv; } || { \
		echo "$(PYTHON) cannot make virtual environments: on Debian, apt-get install python3-venv (as root)." >&2; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || "$(PYTHON)" -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input --no-deps --require-hashes -r locks/all.lock
	@# Without PYTHONWARNINGS setuptools explains at length what an editable installation is.
	PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input --no-deps --no-build-isolation --editable .
	@touch $@

run: $(READY) ## the whole system on this machine [PORT=8080] [DATA=.thoraq]
	@exec $(BIN)/python -m standalone $(call option,port,$(PORT)) $(call option,data,$(DATA))

demo: $(READY) ## classify the samples over HTTP, receive a webhook, and end [PORT=] [DATA=]
	@exec $(BIN)/python -m standalone --demo $(call option,port,$(PORT)) $(call option,data,$(DATA))

SITE := docs/_build
# A warning is an error: a link that leads nowhere, a page that no other names.
SPHINX := $(BIN)/python -m sphinx -W --keep-going -n -q -b html
docs: DOCS_PORT = $(or $(PORT),8000)
docs: $(READY) ## build the documentation and serve it on this machine [PORT=8000]
	$(SPHINX) docs $(SITE)
	@echo "the documentation: http://127.0.0.1:$(DOCS_PORT) (Ctrl-C stops)"
	@exec $(BIN)/python -m http.server --bind 127.0.0.1 --directory $(SITE) $(DOCS_PORT) >/dev/null

# Each worker has a PostgreSQL, a Redis and a running system of its own: 3 GB of memory, and a file's tests stay together.
WORKERS := 2
test: $(READY) tools ## every test, in two processes; ARGS='tests/unit -k name' narrows them [WORKERS=0: in one]
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder $(ARGS)

test-unit: $(READY) ## the tests that need no services
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder tests/unit $(ARGS)

test-big: $(READY) tools ## five thousand real images through `thoraq batch`, with a stand-in engine; takes ten minutes
	$(BIN)/python -m pytest -m big tests/acceptance/batches/test_big.py $(ARGS)

ENGINE_TOOLS := /usr/sbin/dockerd:docker.io /usr/bin/docker-compose:docker-compose /usr/sbin/debootstrap:debootstrap
test-compose: TOOLS := /usr/bin/chromium:chromium $(ENGINE_TOOLS)
test-compose: $(READY) tools ## docker-compose.yml in a real container engine, as root [ARGS=] [ALLOW_NO_ENGINE=1]
	$(BIN)/python -m pytest -m compose --timeout 1500 tests/compose $(ARGS)

lint: $(READY) ## style, format, types, import directions, compose specification, versions with known holes, docs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@$(MAKE) -s lint-types
	$(BIN)/lint-imports
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec docker-compose.yml docker/minio.yml
	$(BIN)/python -m tests.locks.advisories
	$(SPHINX) docs $(SITE)

lint-types: $(READY) ## types alone
	$(BIN)/mypy $(CODE)

bench: TOOLS := /usr/bin/wrk:wrk
bench: $(BENCH_READY) tools ## measure what docs/explain/how-fast.md claims [ARGS=--quick|ROW...]
	$(BIN)/python -m bench $(ARGS)

# The peers, beside everything else and pinned like it; make setup does without them.
$(BENCH_READY): locks/bench.lock $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input --no-deps --require-hashes -r locks/bench.lock
	@touch $@

chaos: TOOLS := $(if $(ENGINE),$(ENGINE_TOOLS))
chaos: $(READY) tools ## break parts at random, then check that nothing was lost [SEED=] [JOBS=] [MINUTES=] [ENGINE=compose, as root] [ARGS=--quick|--real]
	$(BIN)/python -m tests.chaos $(call option,seed,$(SEED)) $(call option,jobs,$(JOBS)) $(call option,minutes,$(MINUTES)) $(call option,engine,$(ENGINE)) $(ARGS)

siege: $(READY) ## one hospital and strangers attack, another is timed; the dearest files [SEED=] [SECONDS=20] [COSTS=120]
	$(BIN)/python -m tests.siege $(call option,seed,$(SEED)) $(call option,seconds,$(SECONDS)) $(call option,costs,$(COSTS))

fuzz: $(READY) ## damaged files through the decoders, in a process that is watched [SECONDS=600] [SEED=1]
	$(BIN)/python -m tests.fuzz $(call option,seconds,$(SECONDS)) $(call option,seed,$(SEED))

train: data-given $(READY) ## train a model bundle on the images of DATA=dir [ARGS=]
	$(BIN)/python -m training.train $(call option,data,$(DATA)) $(ARGS)

evaluate: data-given $(READY) ## measure a bundle on the images of DATA=dir [BUNDLE=models/thoraq-4] [ARGS=]
	$(BIN)/python -m training.evaluate --bundle '$(BUNDLE)' $(call option,data,$(DATA)) $(ARGS)

data-given:
	@test -d "$(DATA)" || { echo "$(MAKECMDGOALS) needs DATA=dir, the folder with the images." >&2; exit 2; }

COMPILE = $(BIN)/uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes --no-annotate --no-header -q
lock: $(READY) ## rewrite locks/*.lock from pyproject.toml, with the newest versions that fit [ARGS=--upgrade]
	$(COMPILE) $(ARGS) --extra cpu --extra standalone --extra train --extra dev --override locks/overrides.txt -o locks/all.lock
	$(COMPILE) $(ARGS) --extra bench --constraint locks/all.lock -o locks/bench.lock
	$(COMPILE) $(ARGS) -o locks/api.lock
	$(COMPILE) $(ARGS) --extra cpu --override locks/overrides.txt -o locks/cpu.lock
	$(COMPILE) $(ARGS) --extra gpu -o locks/gpu.lock

# A file that says a package is there, and the package.
TOOLS := /usr/bin/chromium:chromium /usr/bin/curl:curl /usr/bin/jq:jq /usr/bin/npm:npm /usr/lib/*-linux-gnu/libatomic.so.1:libatomic1 \
	/usr/sbin/pgbouncer:pgbouncer
tools: ## Debian's packages that tests and bench use and Python cannot bring: a browser, what drives it, what the documents call
	@for tool in $(TOOLS); do ls $${tool%:*} >/dev/null 2>&1 || { [ "$$(id -u)" = 0 ] && ($(APT) $${tool#*:}) || \
		echo "this needs $${tool#*:}: apt-get install $${tool#*:} (as root)" >&2; }; done

# Files that make one another: a new password makes a new URL. Nothing that exists is overwritten.
SECRETS := $(addprefix secrets/,postgres_password.txt database_url.txt api_database_url.txt redis_conf.txt redis_url.txt secret_key.txt minio_access_key.txt minio_secret_key.txt)
secrets: $(SECRETS) .env ## random passwords for docker-compose.yml in secrets/, and .env

# Compose mounts these files as they are, and the containers' users are not ours: they must be readable by all. The
# folder, which is not mounted, keeps the host's other users out.
write = mkdir -p -m 700 secrets && cat > $@ && chmod 444 $@

secrets/postgres_password.txt secrets/secret_key.txt secrets/minio_access_key.txt secrets/minio_secret_key.txt:
	@$(random) | { $(write); }

secrets/redis_conf.txt:
	@printf 'requirepass %s\n' "$$($(random))" | { $(write); }

secrets/redis_url.txt: secrets/redis_conf.txt
	@sed 's|requirepass \(.*\)|redis://:\1@redis:6379/0|' $< | { rm -f $@; $(write); }

secrets/database_url.txt: secrets/postgres_password.txt
	@sed 's|\(.*\)|postgresql+psycopg://thoraq:\1@postgres:5432/thoraq|' $< | { rm -f $@; $(write); }

secrets/api_database_url.txt:
	@$(random) | sed 's|\(.*\)|postgresql+psycopg://thoraq_api_login:\1@postgres:5432/thoraq|' | { $(write); }

.env:
	@cp .env.example $@

certificate: secrets/tls_certificate.pem ## a self-signed certificate for the profile `tls`, to try it with [HOST=localhost]

HOST := localhost
secrets/tls_certificate.pem:
	@mkdir -p -m 700 secrets && openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 90 \
		-subj '/CN=$(HOST)' -addext 'subjectAltName=DNS:$(HOST)' -keyout secrets/tls_key.pem -out $@ 2>/dev/null && chmod 644 secrets/tls_*.pem

compose-check: secrets ## docker-compose.yml, read by docker-compose itself; needs no engine
	docker-compose config --quiet
	docker-compose --profile cpu config --quiet
