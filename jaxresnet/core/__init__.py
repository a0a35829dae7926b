"""Model, augmentation, optimizers, schedules and training step: everything that determines the results.

``layers`` and ``flop`` only describe a model.
"""
