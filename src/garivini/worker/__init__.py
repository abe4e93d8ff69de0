"""Functions as jobs: a worker process receives jobs from Gearman, runs them, and records their outcomes."""

from garivini.worker.functions import Discard, Function, Registered, Retry
from garivini.worker.worker import Worker

__all__ = ["Discard", "Function", "Registered", "Retry", "Worker"]
