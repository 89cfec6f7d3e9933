"""Evaluation tasks: each module holds its data, its prompts and what counts as a right answer."""
