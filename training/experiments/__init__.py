"""Experiments on what training makes: each is a command, and nothing outside this folder imports one."""
