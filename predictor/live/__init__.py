"""Live speech at constant cost: what is heard, step by step, as events on the clock of the audio.

`session` is the algorithm, without sockets, threads or event loops; `listener` runs it for one
connection on the engine.
"""
