"""The chat template of a model, carried out step by step within bounds of work, bytes and time."""
