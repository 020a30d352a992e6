"""Celery: the app, its transport, and the messages of recorded tasks."""
