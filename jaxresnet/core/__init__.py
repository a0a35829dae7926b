"""Model, augmentation, optimizers, schedules and training step: everything that determines the results.

``costs`` only describes a model.
"""
