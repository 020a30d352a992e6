"""Attacks: what callers, and who reaches the broker or Redis, may try; `make security` tries much of it."""
