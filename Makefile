# Every target sets up what it needs, in .venv. `make book` and `make test` are all
# that a fresh machine takes.
PYTHON ?= python3
VENV ?= .venv
PINS ?= -c requirements.lock
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PAGE := _build/html/index.html
NOTEBOOKS := $(wildcard notebooks/*.ipynb)
# a page of the reference that runs as well, but is no chapter
RUN_PAGES := $(wildcard book/*.ipynb)
PINNED := tests/test_repository.py::test_the_environment_holds_what_the_lock_file_pins
UNPINNED := PYTEST_ADDOPTS="--deselect $(PINNED)" $(MAKE) unit notebooks-test
# a process for each core, and whoever has nothing to do takes over tests
SPREAD := -n auto --dist worksteal
NBVAL := -n auto --dist loadfile --nbval --nbval-current-env
# the notebooks that train, and the instruction sets that one machine can be held to
TRAINING = $(shell grep -l '"parameters"' $(NOTEBOOKS))
SSE := ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41
AVX2 := ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2

# Notebooks run the same way wherever their outputs are written or compared.
export OMP_NUM_THREADS := 1
GPUS := $(CUDA_VISIBLE_DEVICES)
export CUDA_VISIBLE_DEVICES :=
export PYTHONHASHSEED := 0
# any other back end than the notebook's own drops the figures from the outputs
unexport MPLBACKEND

.PHONY: book test quick lint unit notebooks-test pages-test browser test-weekly test-cpus \
	test-oldest test-newest test-wheel-all test-colab audit lighthouse links \
	mutants bench survey survey-timm compare train notebooks address check-address \
	live lock clean

book: $(READY)
	rm -rf _build # no page of an earlier build stays, and no reference of one hides
	$(BIN)/jupyter-book build . -W -n --keep-going -q
	@echo "The book is at file://$(CURDIR)/$(PAGE)"

# lint and the pages' build take one core each, so they run side by side
test: $(READY)
	$(MAKE) -j 2 lint book
	$(MAKE) unit notebooks-test browser
	@echo "All tests passed."

# while you change something: one test of each module and one notebook, in a minute
quick: lint
	$(BIN)/pytest -q $(SPREAD) --quick tests dilated_lib --ignore tests/browser
	$(BIN)/pytest -q $(NBVAL) notebooks/05_dilated_convolution.ipynb

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

unit: $(READY)
	$(BIN)/pytest -q $(SPREAD) $(CHOICE) tests dilated_lib --ignore tests/browser

notebooks-test: $(READY)
	$(BIN)/pytest -q $(NBVAL) notebooks $(RUN_PAGES)

pages-test: book browser

# the pages as they are built; three processes, since a browser often waits
browser: $(READY)
	$(BIN)/python tests/support/chromium.py
	$(BIN)/pytest -q $(SPREAD) -n 3 $(CHOICE) tests/browser

# also the tests that take minutes, which are marked weekly
test-weekly: CHOICE := -m ""
test-weekly: unit pages-test

# does what is trained in a notebook come out right on other CPUs, and with other seeds?
test-cpus: $(READY)
	for threads in 1 2; do for instructions in "$(SSE)" "$(AVX2)" ""; do \
		echo "$$threads threads, $${instructions:-all instructions}"; \
		env OMP_NUM_THREADS=$$threads $$instructions \
			$(BIN)/pytest -q $(NBVAL) $(TRAINING) || exit 1; \
	done; done
	$(BIN)/python book/margins.py

# every notebook, not only one, where only torch is installed and the rest is fetched
test-wheel-all: $(READY)
	WHEEL_NOTEBOOKS=all $(BIN)/pytest -q tests/test_wheel.py

# the same in Colab's image, or wherever else $(PYTHON) has torch and may be added to
test-colab:
	$(PYTHON) -m pip install -q ipykernel nbclient pytest pyyaml hypothesis
	WHEEL_PYTHON=$(PYTHON) WHEEL_NOTEBOOKS=all $(PYTHON) -m pytest -q tests/test_wheel.py

# the library and every notebook with other versions than the pinned ones, each in an
# environment of its own: the oldest torch that the metadata allow, and all of today
test-oldest:
	$(UNPINNED) VENV=.venv-oldest PINS="torch==2.11.0 torchvision==0.26.0"

test-newest:
	$(UNPINNED) VENV=.venv-newest PINS=

# does any pinned package have a known hole?
audit:
	test -x .venv-audit/bin/python || $(PYTHON) -m venv .venv-audit
	.venv-audit/bin/python -m pip install -q pip-audit
	.venv-audit/bin/pip-audit --strict --no-deps --disable-pip -r requirements.lock

# accessibility, good practice and search engines, as Lighthouse scores three pages;
# it takes Node's npx
lighthouse: $(READY) book
	$(BIN)/python tests/support/chromium.py
	$(BIN)/pytest -q -s tests/browser/bench_lighthouse.py

# does any link of the published pages lead nowhere, here or on other sites?
links:
	test -x .venv-links/bin/python || $(PYTHON) -m venv .venv-links
	.venv-links/bin/python -m pip install -q LinkChecker==10.6.0
	.venv-links/bin/linkchecker --no-status --check-extern \
		--ignore-url "/edit/|/issues/new" \
		$(or $(SITE),$(shell sed -n 's/^  baseurl: //p' _config.yml))

# does a test notice when the library is broken? ROOM=fields breaks that room alone
mutants: $(READY)
	HYPOTHESIS_PROFILE=fast $(BIN)/python tests/support/break_library.py $(ROOM)

# how fast networks are analysed, tracing apart; a picture through the full network
bench: $(READY)
	$(BIN)/pytest -q -s tests/fields/bench_tracing.py tests/prediction/bench_segmentation.py

# every network of torchvision, compared with itself: an hour or two
survey: $(READY)
	$(BIN)/python -m dilated_lib.experiments.torchvision_survey --verify

# one network of each family of timm, compared with itself, in an environment of its own
survey-timm:
	test -x .venv-timm/bin/python || $(PYTHON) -m venv .venv-timm
	.venv-timm/bin/python -m pip install -q -c requirements.lock -e . \
		torchvision timm==1.0.31 segmentation-models-pytorch==0.6.0
	.venv-timm/bin/python -m dilated_lib.experiments.timm_survey

# other packages on the same networks, in an environment of their own
compare:
	test -x .venv-tools/bin/python || $(PYTHON) -m venv .venv-tools
	.venv-tools/bin/python -m pip install -q -c requirements.lock -e . \
		torchvision torchlens==2.36.1 receptivefield==0.5.0
	.venv-tools/bin/python -m dilated_lib.experiments.other_tools

# everything that chapter 13 reports: hours of a GPU; `python -m dilated_lib plan` lists it
train: $(READY)
	env -u OMP_NUM_THREADS $(if $(GPUS),CUDA_VISIBLE_DEVICES=$(GPUS),-u \
		CUDA_VISIBLE_DEVICES) $(BIN)/python -m dilated_lib plan all

# run every notebook, rewrite its outputs, the table of run times, the welcome page's
# picture and explorer
notebooks: $(READY)
	$(BIN)/python book/run_notebooks.py $(NOTEBOOKS) $(RUN_PAGES)
	$(BIN)/python book/welcome.py

# the repository's address, everywhere: make address URL=https://github.com/OWNER/NAME
address: $(READY)
	$(BIN)/python book/address.py $(URL)

# does everything belong to that address?
check-address: $(READY)
	$(BIN)/python book/address.py --check $(URL)

live: $(READY)
	$(BIN)/jupyter lab notebooks

# pin anew, exactly, what the metadata allows today
lock:
	rm -rf .venv
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q -e ".[book,train,dev]"
	$(BIN)/python -m pip freeze --exclude-editable > requirements.lock
	touch $(READY)

clean:
	rm -rf .venv .venv-* _build dist

$(READY): pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed, $(PYTHON) is older: make PYTHON=python3.12"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check \
		$(PINS) -e ".[book,train,dev]"
	touch $@
