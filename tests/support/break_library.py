"""Break the library in small ways, one at a time, and see whether its tests notice.

``make mutants`` runs this. Of each file some mutants are drawn (``mutants.py`` makes
them), and each meets the tests and examples of its room that run what is broken: those
named after the file first, then the quick ones, for about a minute. At least 95 of 100
must be noticed; a test that takes far too long has noticed. A test that fails must pass
in the same place on the whole library, or everything ends there.
``equivalent_mutants.toml`` explains the mutants that compute the same as the library
does; these are not drawn.
"""

import argparse
import gc
import os
import pickle
import random
import resource
import shutil
import signal
import sys
import tempfile
import tomllib
import traceback
from collections import defaultdict
from contextlib import suppress
from importlib import import_module
from itertools import accumulate, groupby, islice
from pathlib import Path

import coverage
import pytest
from mutants import mutants

ROOT = Path(__file__).parents[2]
HOME = ROOT / "dilated_lib"
EXPLAINED = Path(__file__).with_name("equivalent_mutants.toml")
NEEDED = 0.95
ENOUGH = 60  # seconds of work in tests, as much as they do while they are traced
MEMORY = 12 << 30  # a size that is broken must not take the whole machine
EVERY = ""  # what coverage calls all that runs before the first test, on import
NO_RESULT = {
    "__init__.py": "it hands on names",
    "__main__.py": "it names the commands",
    "plot/_style.py": "how figures look",
}


class Tracer:
    """Which lines each test runs, and how long it takes.

    What a fixture runs for all tests of a file counts for each of them.
    """

    def __init__(self, folder):
        inside = f"{folder}/{HOME.name}/*"
        self.coverage = coverage.Coverage(data_file=None, include=[inside])
        self.seconds = {}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item):
        self.coverage.switch_context(item.nodeid)
        began = sum(os.times()[:4])  # of work, here and in processes that have ended
        result = yield
        self.seconds[item.nodeid] = sum(os.times()[:4]) - began
        return result

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, request):
        self.coverage.switch_context(request.node.nodeid)  # a test, or a whole file
        result = yield
        self.coverage.switch_context(request._pyfuncitem.nodeid)
        return result


class Choice:
    """The tests that run what is broken, quick ones first, each with a time limit.

    Those that have noticed something come before all others, as they are the likeliest
    to notice again, and then those of files that are named ``like`` the broken one. The
    first that fails is written down. They end with ``last``, if it is given.
    """

    def __init__(self, seconds, running, like, noticed, failed, last=""):
        self.seconds, self.running, self.like = seconds, running, like
        self.noticed, self.failed, self.last = noticed, failed, last
        self.taken, self.longest = defaultdict(float), defaultdict(float)
        for test, taken in seconds.items():
            path = path_of(test)
            self.longest[path] = max(self.longest[path], taken)
            self.taken[path] += taken * self.has(test)

    def has(self, test):
        return not self.running.isdisjoint({EVERY, test, path_of(test)})

    def place(self, item):  # a file stays together: its tests share what they set up
        test, path = item.nodeid, path_of(item.nodeid)
        late, like = test not in self.noticed, any(one in path for one in self.like)
        return late, not like, self.taken[path], path, self.seconds.get(test, 0)

    def pytest_collection_modifyitems(self, items):
        items[:] = sorted((i for i in items if self.has(i.nodeid)), key=self.place)
        until = accumulate(self.seconds.get(item.nodeid, 0) for item in items)
        del items[1 + sum(seconds < ENOUGH for seconds in until) :]
        names = [item.nodeid for item in items]
        if self.last in names:
            del items[names.index(self.last) + 1 :]

    def pytest_runtest_logreport(self, report):
        if report.failed:
            self.failed.write_text(report.nodeid)

    def pytest_runtest_logstart(self, nodeid):
        limit = 10 + 5 * round(self.longest[path_of(nodeid)])
        signal.setitimer(signal.ITIMER_PROF, limit)  # of work, on a busy machine too
        signal.alarm(4 * limit)  # for one that waits and does not work


def path_of(test):
    return test.split("::")[0]


def in_child(work, *arguments):
    """Work in another process: its exit code, or minus the signal that it died of."""
    sys.stdout.flush()
    if not (child := os.fork()):
        code = 1
        try:
            os.setpgid(0, 0)
            resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
            code = work(*arguments)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    try:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    finally:
        with suppress(ProcessLookupError):  # and what it has begun ends with it
            os.killpg(child, signal.SIGKILL)


def run(paths, plugin):
    """Run tests and examples, on the library as everyone else imports it.

    A file of examples would be loaded a second time, with classes of its own, and come
    to lie in its package where a function of the same name was.
    """
    for path in paths:
        name = ".".join(Path(path).with_suffix("").parts)
        if name.startswith(HOME.name):
            with suppress(Exception):  # what a mutant breaks, pytest finds as well
                import_module(name)
    return pytest.main(["-x", "-q", *paths], plugins=[plugin])


def run_silently(paths, plugin):
    for stream in (1, 2):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
    # no mutant may leave its byte code to the next
    sys.dont_write_bytecode = True
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    return run(paths, plugin)


def trace(paths, folder):
    """Run the tests on the whole library and write down what each of them runs."""
    tracer = Tracer(folder)
    with tracer.coverage.collect():
        code = run(paths, tracer)
    data = tracer.coverage.get_data()
    lines = {path: data.contexts_by_lineno(path) for path in data.measured_files()}
    found = (folder / "traced").write_bytes
    found(pickle.dumps((others(folder), tracer.seconds, lines)))
    return code


def others(folder):
    """Name the modules that are loaded and lie elsewhere, in the order of loading."""
    loaded = {name: getattr(one, "__file__", 0) for name, one in sys.modules.items()}
    return [name for name, file in loaded.items() if file and str(folder) not in file]


def check(room, files, folder, *, draw, seed):
    """Break the files of a room: each with the number drawn, and those not noticed."""
    tests = f"tests/{room}" if (HOME / room).is_dir() else f"tests/test_{room}"
    paths = [tests, f"{HOME.name}/{room}"]
    if code := in_child(trace, paths, folder):
        sys.exit(f"{tests} must pass before anything is broken, got exit code {code}")
    loaded, seconds, lines = pickle.loads((folder / "traced").read_bytes())
    for name in loaded:  # once for all mutants; what needs another one first fails
        with suppress(Exception):
            import_module(name)
    gc.freeze()  # what is shared stays shared: no child looks through it
    every = tomllib.loads(EXPLAINED.read_text())["mutant"]
    failed, sound = folder / "failed", set()
    for file in files:
        broken = folder / HOME.name / file
        runs, code = lines.get(str(broken), {}), broken.read_text()
        explained = {one["change"] for one in every if one["file"] == file}
        counted = (m for m in mutants(code, seed=seed) if m.change not in explained)
        number, unnoticed = 0, []
        for mutant in islice(counted, draw):
            broken.write_text(mutant.code)
            number += 1
            running = {test for line in mutant.lines for test in runs.get(line, ())}
            running = running or {EVERY}  # as far as is known, only other processes do
            some = paths if EVERY in running else {path_of(test) for test in running}
            failed.write_text("")
            noticed = {test for test, _ in sound}
            like = Path(file).with_suffix("").parts[1:]  # without the room
            given = seconds, running, like, noticed, failed
            if in_child(run_silently, some, Choice(*given)) == 0:
                unnoticed.append(mutant)
            broken.write_text(code)
            told = failed.read_text(), frozenset(running)
            if told[0] and told not in sound:
                choice = Choice(*given, last=told[0])
                if in_child(run_silently, some, choice) > 0:
                    sys.exit(f"{told[0]} fails on the whole library, too")
                sound.add(told)
        yield file, number, unnoticed


def main():
    """Check the rooms or files that are asked for, or all; exit 1 for a low share."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("asked", nargs="*", metavar="room|file", default=[""])
    parser.add_argument("--draw", type=int, default=100, help="mutants of each file")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    options = parser.parse_args()
    every = sorted(path.relative_to(HOME).as_posix() for path in HOME.rglob("*.py"))
    files = [file for file in every if file.startswith(tuple(options.asked))]
    files = [file for file in files if file not in NO_RESULT]
    print(f"seed {options.seed}")
    low = False
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / ROOT.name
        apart = shutil.ignore_patterns(".*", "_build", "runs")
        shutil.copytree(ROOT, folder, ignore=apart)
        os.chdir(folder)
        os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # no test here needs one
        sys.path[0] = os.environ["PYTHONPATH"] = str(folder)
        for room, some in groupby(files, lambda file: file.split("/")[0]):
            options_of = {"draw": options.draw, "seed": options.seed}
            for file, number, unnoticed in check(room, some, folder, **options_of):
                if number:
                    share = 1 - len(unnoticed) / number
                    low |= share < NEEDED
                    print(f"{file}: {share:.0%} of {number} noticed", flush=True)
                for mutant in unnoticed:
                    print(f"\n{mutant.change}\n", flush=True)
    sys.exit(low)


if __name__ == "__main__":
    main()
