"""The base model: found, converted, identified, loaded, and asked what it is made of.

Importing this package imports neither torch nor transformers; only calling :func:`load`, :func:`linear_shapes` and the
like does.
"""

from registry.base_model.architecture import (
    Matrices,
    block_count,
    block_count_of,
    linear_shapes,
    matrices_from_config,
    shapes_from_config,
)
from registry.base_model.chat import encode_example, encode_messages, encode_prompt, encode_text, stop_tokens
from registry.base_model.devices import (
    choose_device,
    choose_devices,
    choose_dtype,
    fast_float32_is_exact,
    library_versions,
)
from registry.base_model.identity import fingerprint, require_same
from registry.base_model.loading import LoadedModel, load, load_tokenizer
from registry.base_model.location import DEFAULT_ALIAS, ModelFiles, locate
from registry.base_model.rate import measured_rate
from registry.base_model.weight_shapes import target_shapes

__all__ = [
    "DEFAULT_ALIAS",
    "LoadedModel",
    "Matrices",
    "ModelFiles",
    "block_count",
    "block_count_of",
    "choose_device",
    "choose_devices",
    "choose_dtype",
    "encode_example",
    "encode_messages",
    "encode_prompt",
    "encode_text",
    "fast_float32_is_exact",
    "fingerprint",
    "library_versions",
    "linear_shapes",
    "load",
    "load_tokenizer",
    "locate",
    "matrices_from_config",
    "measured_rate",
    "require_same",
    "shapes_from_config",
    "stop_tokens",
    "target_shapes",
]
