"""The rules of the service: no I/O, no Redis, no wire names.

`decide` is the state machine, `task` its record, `events` its inputs, `errors` the error catalogue, `limits`
the sizes and quotas. Every store and every test calls the same code.
"""
