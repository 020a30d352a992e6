"""`python -m tasks_service` is `tasks-service`."""

from .cli import main

main()
