"""Fixtures of other folders that faults need."""

from tests.faults.postgres import postgres
from tests.faults.worker import one_thread, order, struck, worker_digits
from tests.trainables.data.conftest import cache, listed, write_image

__all__ = ["cache", "listed", "one_thread", "order", "postgres", "struck", "worker_digits", "write_image"]
