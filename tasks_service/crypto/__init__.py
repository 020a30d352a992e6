"""The secret of a deployment, and what is derived from it."""
