"""A tiny checkpoint of our own and the reference's runs of it, so that a clone proves the same claims alone."""
