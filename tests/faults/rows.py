"""The fault table: which tests play each row. docs/reliability.md describes the rows and has their outcomes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the fault table.

    Attributes:
        title: the fault, as docs/reliability.md calls it.
        tests: files, or tests in them as `file::function`, below `tests/`.
        command: what plays the row instead, from the project's root; `HOURS` in it stands for `hours`.
        hours: how long that command does it at full size.
    """

    title: str
    tests: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    hours: float = 0.0


ROWS = {
    1: Row("kill -9 of the daemon at random", ("faults/test_killed.py::test_kills_at_random_lose_and_double_nothing",)),
    2: Row(
        "kill -9 at fixed points",
        (
            "faults/test_killed.py::test_kill_around_the_commit",
            "faults/test_killed.py::test_kill_between_the_answer_and_the_insert",
            "faults/test_killed.py::test_kill_in_the_middle_of_embedding",
            "faults/test_killed.py::test_kill_in_the_middle_of_the_first_migration",
            "daemon/test_embed_role.py::test_kill_9_of_the_embedder_loses_and_doubles_nothing",
            "integration/test_worker_several.py::test_claims_of_a_killed_worker_are_free_at_once",
            "integration/test_worker_several.py::test_killed_workers_embed_each_message_once",
            "integration/test_writer_faults.py::test_kills_at_random_moments",
            "integration/test_migrations.py::test_migration_killed_in_the_middle_leaves_the_version_before_it",
            "integration/test_migrations.py::test_first_migration_killed_in_the_middle_is_begun_again",
        ),
    ),
    3: Row(
        "the database killed, sessions ended, out of connections",
        (
            "faults/test_database.py::test_server_killed_and_restarted_under_load",
            "faults/test_database.py::test_every_session_terminated_again_and_again",
            "faults/test_database.py::test_no_connection_to_be_had",
            "integration/test_writer_faults.py::test_exhausted_connections_are_a_database_that_cannot_be_reached",
        ),
    ),
    4: Row("the database away for long, without a spool", ("faults/test_database.py::test_database_gone_for_long",)),
    5: Row(
        "a bad network",
        ("faults/test_network.py", "faults/test_database.py::test_a_frozen_server_is_noticed_and_left"),
    ),
    6: Row(
        "a full disk",
        (
            "faults/test_database.py::test_a_full_disk_stops_the_cursor_and_nothing_else",
            "faults/test_database.py::test_a_full_disk_under_the_whole_server",
            "faults/test_database.py::test_a_full_disk_under_the_log_stops_nothing",
            "faults/test_database.py::test_a_status_file_that_cannot_be_written_leaves_the_old_one",
            "integration/test_writer_faults.py::test_full_disk_leaves_the_cursor_where_it_was_until_there_is_room",
            "integration/test_writer_faults.py::test_server_that_cannot_write_leaves_the_cursor_where_it_was",
            "unit/test_log.py::test_full_disk_loses_lines_and_garbles_none",
        ),
    ),
    7: Row("a Bot API that fails", ("faults/test_api.py",)),
    8: Row(
        "hostile events",
        ("integration/test_hostile_events.py", "unit/test_body.py", "integration/test_reference.py"),
    ),
    9: Row("signals", ("faults/test_signals.py", "faults/test_stop.py", "faults/test_watchdog.py")),
    10: Row("several that want the same", ("faults/test_rivals.py",)),
    11: Row("starts that must fail", ("daemon/test_start_refused.py", "daemon/test_start_service.py")),
    12: Row("upgrades", ("integration/test_migrations.py::test_upgrade_of_every_released_schema_equals_a_fresh_one",)),
    13: Row("soak", command=("python", "-m", "bench.soak", "--hours", "HOURS"), hours=2),
    14: Row("the Debian package", command=("make", "package-test")),
    15: Row(
        "delay: frozen processes", ("faults/test_frozen.py", "faults/test_stopped.py", "faults/test_hung_backend.py")
    ),
    16: Row(
        "neighbours",
        (
            "integration/test_server_check.py",
            "integration/test_session_settings.py",
            "integration/test_libpq_environment.py",
            "integration/test_bundled_owner.py",
            "integration/test_chat_locks.py",
        ),
    ),
    17: Row(
        "going back, and wrong clocks",
        ("faults/test_failover.py", "integration/test_gaps.py", "integration/test_retention.py"),
    ),
    18: Row(
        "the spool",
        ("faults/test_spool.py", "integration/test_spool.py", "integration/test_promise.py", "unit/test_spool.py"),
    ),
    19: Row("scopes", ("integration/test_scopes.py",)),
}
