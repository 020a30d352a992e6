"""The engine inside a Celery worker: execution, leases, interruption, shutdown and sweeps."""
