"""What sets Usher up on one machine: the environment, the programs, private stores, `make run`.

Nothing here needs more than Python's standard library, since it runs before anything is installed.
"""
