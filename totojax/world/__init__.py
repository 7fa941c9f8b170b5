"""A rendered world with exact labels: a table, things on it, a hand, containers.

MuJoCo draws it (the `world` extra), in processes of their own: `processes.films`.
"""
