"""Metrics: what is counted while the service works, and how Prometheus reads it.

`series` has every series, `counting` counts, `task_events` says what a transition counts. None of these needs
more than Python. `exposition` alone needs the extra `metrics`, and is imported once `TASKS_METRICS_PORT` is
set; until then nothing is counted.
"""
