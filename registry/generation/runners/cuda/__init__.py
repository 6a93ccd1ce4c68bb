"""A runner for CUDA; see ``CudaRunner``."""

from registry.generation.runners.cuda.runner import CudaRunner

__all__ = ["CudaRunner"]
