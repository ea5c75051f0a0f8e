"""The demonstration: a learner and its actors train on CartPole through a real broadcaster, and a live table shows the figures.

It speaks to the broadcaster through `clients` alone, as any user's program does. `run.py` starts the processes and is the way in.
"""

MODEL = "policy"
"""The model_id under which the learner publishes."""
