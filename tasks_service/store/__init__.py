"""Where tasks are kept.

What a store promises, by role: `clients`, `front_ends`, `workers`, `maintenance`, and `sessions`. Two stores
keep these promises: `memory`, and `redis`.
"""
