"""Tuning: which decoding settings are fastest on this machine at the quality that is asked for.

run.py is the whole; space.py lists the settings; trial.py asks the model and judges; halving.py says whom to ask next;
state.py keeps trials for a run that goes on; record.py, report.py and figure.py write what was found. An engine is seen
through `Answers` of trial.py: nothing here knows more of one.
"""
