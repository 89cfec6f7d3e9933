"""Slow definitions: a float64 numpy twin of each op, the whole forward, the published loops. Nobody optimises these."""
