"""A database of its own on a Citus cluster, for the tests of distributed archives.

`cluster_url`   a fresh distributed archive on the cluster whose coordinator VKTEAMS_TEST_CITUS_URL names

The variable is the URL of a database on the coordinator that knows its workers (`citus_add_node`). Its role may make
databases and extensions on every machine.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg import conninfo

from vkteams_daemon.config import Config
from vkteams_daemon.options import Database as DatabaseOptions
from vkteams_daemon.store.database import Database

VARIABLE = "VKTEAMS_TEST_CITUS_URL"
needs_cluster = pytest.mark.skipif(
    not os.environ.get(VARIABLE), reason=f"{VARIABLE} names no coordinator of a Citus cluster"
)

PREFIX = "vkteams_cluster_"  # of the names of the tests' databases there

_NODES = "SELECT nodename, nodeport, groupid FROM pg_dist_node WHERE noderole = 'primary' ORDER BY groupid"


def on(url: str, statement: str, *arguments: Any, **place: Any) -> list[tuple[Any, ...]]:
    """The rows of a statement, on another machine or database if `place` names one."""
    with psycopg.connect(conninfo.make_conninfo(url, **place), autocommit=True) as connection:
        cursor = connection.execute(statement.encode(), arguments or None)
        return cursor.fetchall() if cursor.description else []


def on_cluster(url: str) -> bool:
    """Whether a database of the tests lies on the cluster, by its name."""
    return PREFIX in url


def machines(coordinator: str) -> list[tuple[str, int, int]]:
    """Host, port and group of each machine of a cluster; the coordinator is first, its group is 0."""
    return on(coordinator, _NODES)


class ClusterDatabase:
    """A database on every machine of the cluster, with the extension and the workers, without an archive."""

    def __init__(self, coordinator: str) -> None:
        self.name = f"{PREFIX}{secrets.token_hex(4)}"
        self._nodes = machines(coordinator)
        self._coordinator = coordinator
        self.url = conninfo.make_conninfo(coordinator, dbname=self.name)
        for host, port, _ in self._nodes:
            on(coordinator, f"CREATE DATABASE {self.name} TEMPLATE template0", host=host, port=port)
            on(coordinator, "CREATE EXTENSION citus", host=host, port=port, dbname=self.name)
        for host, port, group in self._nodes:
            if group == 0:
                on(self.url, "SELECT citus_set_coordinator_host(%s, %s)", host, port)
            else:
                on(self.url, "SELECT citus_add_node(%s, %s)", host, port)

    @property
    def workers(self) -> list[tuple[str, int]]:
        """Host and port of each worker."""
        return [(host, port) for host, port, group in self._nodes if group]

    def everywhere(self, statement: str) -> None:
        """Run a statement about the server on each machine; roles that exist there already are left alone."""
        for host, port, _ in self._nodes:
            with contextlib.suppress(psycopg.errors.DuplicateObject, psycopg.errors.UndefinedObject):
                on(self._coordinator, statement, host=host, port=port)

    def drop(self) -> None:
        """Drop it on every machine."""
        self.everywhere(f"DROP DATABASE {self.name} WITH (FORCE)")


def distributed(url: str, *, wanted: bool = True) -> Database:
    """The database at a URL, as a configuration with `[database] distributed` opens it."""
    return Database(Config(database=DatabaseOptions(url=url, distributed=wanted)))


@pytest.fixture(scope="module")
def cluster() -> Iterator[ClusterDatabase]:
    """A database on the cluster, without an archive."""
    database = ClusterDatabase(os.environ[VARIABLE])
    yield database
    database.drop()


@pytest.fixture(scope="module")
def cluster_url(cluster: ClusterDatabase) -> str:
    """A fresh distributed archive."""
    with distributed(cluster.url):
        return cluster.url
