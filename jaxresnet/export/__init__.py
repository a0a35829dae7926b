"""Export of a run: ``python -m jaxresnet.export --workdir=runs/final --format=onnx``."""

from jaxresnet.export.command import main

__all__ = ["main"]
