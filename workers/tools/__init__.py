"""The tools that ship with this deployment."""
