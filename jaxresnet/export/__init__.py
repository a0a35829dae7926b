"""Export of a run: as one file that needs nothing else of this package, or as a release."""

from jaxresnet.export.programs import to_onnx, to_stablehlo
from jaxresnet.export.release import write_release

__all__ = ["to_onnx", "to_stablehlo", "write_release"]
