"""Convolutions that are faster than XLA's on CPUs. An optimisation: readers may skip it."""
