"""A model folder, read without an engine: its files, its tensors, its quantisation, the memory it takes."""
