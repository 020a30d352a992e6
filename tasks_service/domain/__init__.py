"""The rules of a task's life: no I/O, no Redis, no wire names.

`decide` is the state machine, `task` its record, `events` what can happen, `errors` what can go
wrong, `limits` how much of anything is allowed. Every store and every test calls the same code.
"""
