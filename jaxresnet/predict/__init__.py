"""Classification of images: ``python -m jaxresnet.predict --workdir=runs/final cat.jpg photos/``."""

from jaxresnet.predict.command import main

__all__ = ["main"]
