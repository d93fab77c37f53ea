"""A single worker is a thread here."""

from tests.processes import one_worker_is_a_thread  # noqa: F401
