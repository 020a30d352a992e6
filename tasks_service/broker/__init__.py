"""Celery messages: the app, its transport, and the way from a recorded task to a message."""
