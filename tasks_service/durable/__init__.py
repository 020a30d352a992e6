"""Durable execution inside a tool: its context, journal, steps, questions and suspension."""
