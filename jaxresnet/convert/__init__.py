"""Import and export of PyTorch weights: ``python -m jaxresnet.convert``."""
