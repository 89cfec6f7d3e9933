"""What all options share: types, checks, which of two that exclude each other gives way, words of other programs."""
