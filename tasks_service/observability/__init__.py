"""What a service tells its operators of itself: the log, and the context that its lines carry."""
