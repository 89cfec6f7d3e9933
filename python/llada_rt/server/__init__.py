"""llada-rt serve: an engine behind HTTP, in OpenAI's words, with what only diffusion has beside them.

A request's way: process.py (sockets, signals) -> gate.py (who may, how much) -> app.py (the paths) -> a file for each
kind of request -> service.py (the engine) -> sse.py or one JSON answer. protocol.py says what bodies hold.
"""
