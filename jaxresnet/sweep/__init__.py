"""Sweeps over the arms of a table: ``python -m jaxresnet.sweep``."""
