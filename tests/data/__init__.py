"""A tiny checkpoint of our own and the runs that the reference makes of it, so that a clone proves the same claims
alone.
"""
