"""What holds for all tests, and the databases that the ratings store is tested on."""

import os
import signal
from pathlib import Path
from uuid import uuid4

import psutil
import pytest
import sqlalchemy as sa
from filelock import FileLock
from notebook_runs import play

from benchmarks.cases import postgres

# A shell that starts `make test &` makes it ignore Ctrl-C, and so would every program that a test starts and stops.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


# Two test processes share the cores: each has its part, or torch's threads wait for those of the other (OpenMP spins).
if "PYTEST_XDIST_WORKER_COUNT" in os.environ:
    _share = max(1, (os.cpu_count() or 1) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"]))
    os.environ.setdefault("OMP_NUM_THREADS", str(_share))


LONG_S = 2_400  # of 5,400 that CI gives all tests: one that hangs leaves the other process time to end


def pytest_xdist_auto_num_workers(config) -> int:
    """Two where they fit (a process that trains holds 5 GB), else none: then the tests run in this process."""
    room = psutil.virtual_memory().available / 2**30
    return 2 if (os.cpu_count() or 1) > 1 and room >= 12 else 0


def pytest_collection_modifyitems(items) -> None:
    """The long files first, so that neither process ends with one of them alone; `--no-loadscope-reorder` keeps it so.

    The deep notebooks come last: they wait for the chain, which the other process makes meanwhile.
    These three may also take longer: the chain is five minutes, and a noisy machine is three times slower.
    """
    place, rest = {"chain": 0, "result": 1, "deep": 3}, 2
    place_of = lambda item: next((at for mark, at in place.items() if item.get_closest_marker(mark)), rest)
    items.sort(key=place_of)
    for item in items:
        if place_of(item) != rest:
            item.add_marker(pytest.mark.timeout(LONG_S))


@pytest.fixture(scope="session")
def chain(tmp_path_factory) -> Path:
    """A finished smoke run of all notebooks, made once for all test processes; to be copied, not changed."""
    base = tmp_path_factory.getbasetemp()
    runs = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "chain"
    runs.mkdir(exist_ok=True)
    with FileLock(runs / ".lock"):
        if not (runs / "made").exists():
            done = play(runs, "--profile", "smoke", "--seed", "3")
            assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
            (runs / "made").touch()
    return next(path for path in runs.iterdir() if (path / "run.json").is_file())


@pytest.fixture(scope="session")
def postgres_server():
    """The address of a PostgreSQL server with "{database}" to be filled in; started once, for the tests that ask."""
    if postgres.programs() is None:
        pytest.skip("no PostgreSQL server here (Debian: apt-get install postgresql)")
    with postgres.server(durable=False) as url:
        yield url


@pytest.fixture
def postgres_url(postgres_server):
    """The URL of an empty database of its own."""
    admin = sa.create_engine(postgres_server.format(database="postgres"), isolation_level="AUTOCOMMIT")
    name = f"test_{uuid4().hex}"
    with admin.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    yield postgres_server.format(database=name)
    with admin.connect() as connection:
        connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")
    admin.dispose()


@pytest.fixture(params=["sqlite", "postgresql"])
def store_url(request, tmp_path):
    """Where a store of this test's own may be made: a test that takes it runs on both databases."""
    return request.getfixturevalue("postgres_url") if request.param == "postgresql" else str(tmp_path / "ratings.db")
