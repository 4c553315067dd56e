# make demo     the whole of it in a minute, on simulated chats: nothing else is needed
# make test     the test suite, with everything it needs
# make check    ruff, mypy, documentation and tests: what must hold before a change is merged
# make run      vkteamsd in the foreground for a real bot: VKTEAMS_BOT_API_URL and VKTEAMS_BOT_API_TOKEN
# make bench    the figures of docs/benchmarks.md, as ratios within one run
# make bench-scale N=1000000 ARCHIVE=DIR   storing, counting and searching in an archive of so many messages, kept in DIR for the next run; PARTS="ingest count" makes no vectors
# make options  the table of options again in etc/vkteamsd.toml and docs/configuration.md
# make deb      the Debian package, in dist/
# make audit    known vulnerabilities of the pinned dependencies, where the package index can tell them
# make package-test   installs it into a small Debian of its own, and sees that it does what it should (as root)
# make browser-test   the page in a real browser: Debian's chromium and chromium-driver; npm brings axe-core
# make oidc-test   signing in, with a real OpenID provider on loopback (npm)
# make fuzz     bytes from outside that nobody thought of: a minute for each target; FUZZ_SECONDS=600 FUZZ="spool mcp"
# make faults   the fault table at full size (hours); ROW='4 5' plays these rows alone, SCALE=0.3 so much of each

PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
# Debian's pip would otherwise make programs that look for all their packages at every start.
PIP = $(BIN)/python -m pip install --quiet --disable-pip-version-check --use-pep517
PYTEST ?= $(BIN)/python -m pytest
# Much of a test is waiting: more of them than cores run at once. WORKERS=0 runs one after the other.
WORKERS ?= 5

# Seconds for each target of the fuzzer, and the targets; none means all.
FUZZ_SECONDS ?= 60
FUZZ ?=

.PHONY: demo options run test check lint audit bench browser-test oidc-test faults fuzz deb package-test clean

demo: $(VENV)/.installed
	$(BIN)/python docs/demo.py

run: $(VENV)/.installed
	$(BIN)/vkteamsd --foreground

# Hundreds of processes are started: without the compiled modules each would compile the package again.
unexport PYTHONDONTWRITEBYTECODE

test: $(VENV)/.installed-test tests/__pycache__/.rewritten
	$(PYTEST) --numprocesses=$(WORKERS) --dist=worksteal

# pytest compiles each test file in a form of its own. In a fresh clone every worker would compile all of them: here two
# processes do it once, a half each.
tests/__pycache__/.rewritten: | $(VENV)/.installed-test
	@mkdir -p $(@D)
	$(PYTEST) --collect-only --quiet tests/unit tests/daemon tests/faults > /dev/null & \
	$(PYTEST) --collect-only --quiet --ignore=tests/unit --ignore=tests/daemon --ignore=tests/faults > /dev/null; wait
	@touch $@

check: lint test

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict vkteams_daemon

audit: $(VENV)/.installed
	$(BIN)/python .ci/audit.py debian/requirements.txt

bench: $(VENV)/.installed
	$(BIN)/python -m bench

N ?= 1000000
ARCHIVE ?= /tmp/vkteams-scale
bench-scale: $(VENV)/.installed
	$(BIN)/python -m bench.scale --events $(N) --archive $(ARCHIVE) --results docs/benchmarks-scale-$(N).json $(if $(PARTS),--only $(PARTS))

options: $(VENV)/.installed
	$(BIN)/python -m docs.options

browser-test: $(VENV)/.installed-test
	cd tests/web/axe && npm install --no-audit --no-fund --silent
	BROWSER_TEST=1 $(PYTEST) -n0 tests/web/test_browser.py

oidc-test: $(VENV)/.installed-test
	cd tests/web/oidc && npm install --no-audit --no-fund --silent
	OIDC_TEST=1 $(PYTEST) -n0 tests/web/test_oidc.py

faults: $(VENV)/.installed-test
	$(BIN)/python -m tests.faults $(if $(SCALE),--scale $(SCALE)) $(ROW)

fuzz: $(VENV)/.installed-fuzz
	$(BIN)/python -m tests.fuzz --seconds $(FUZZ_SECONDS) $(FUZZ)

# The package is made from a copy of the sources, and the tests' Debian is made once: both are kept in build/package.
deb:
	debian/build dist

package-test: $(VENV)/.installed-test deb
	tests/package/make-root build/package/root
	tests/package/get-programs $(CURDIR)/build/package/programs
	PACKAGE_TEST=1 $(PYTEST) tests/package --timeout=600

clean:
	rm -rf $(VENV) build dist .demo *.egg-info

# Only the metadata decides what is installed: the sources are used where they lie.
$(VENV)/.installed: setup.cfg setup.py
	$(PYTHON) -m venv $(VENV)
	$(PIP) --editable '.[embedded,mcp,models,web]'
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(PIP) --editable '.[embedded,mcp,models,web,test]'
	$(PIP) --no-deps mailru-im-bot==0.0.21
	@touch $@

# The fuzzer's wheel is made for each version of Python by itself, and the tests do without it.
$(VENV)/.installed-fuzz: $(VENV)/.installed-test
	$(PIP) --editable '.[fuzz]'
	@touch $@
