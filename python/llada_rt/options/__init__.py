"""What all options share: types, checks, precedence, docstrings, old names, and the options of other engines."""
