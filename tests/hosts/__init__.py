"""Hosts that others wrote: a model that follows a script calls tools through them (`make hosts`)."""
