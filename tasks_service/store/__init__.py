"""Where tasks are kept: the protocols in `base`, an in-memory store, and Redis."""
