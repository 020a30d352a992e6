"""The checks of who may call, and from where."""
