"""A shop on Django, as such projects are laid out: settings, a Celery app, an application with tasks."""
