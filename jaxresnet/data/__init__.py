"""Images and labels as NumPy arrays."""

from jaxresnet.data.loading import Dataset, Split, load_dataset

__all__ = ["Dataset", "Split", "load_dataset"]
