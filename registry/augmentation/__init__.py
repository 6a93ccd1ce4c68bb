"""Augmentation: rewrites and question-answer pairs, which an adapter is trained on besides its document's own text.

Whoever writes them (the base model, an endpoint, a file that someone else made), they pass one check against the
document, described in ``grounding``. Importing this package imports neither torch nor transformers nor openai.
"""

from registry.augmentation.augmenter import (
    AugmentationReport,
    AugmentationSettings,
    Augmenter,
    AugmenterSpec,
    none_augmenter,
    parse_augmenter,
)
from registry.augmentation.endpoint import endpoint_augmenter
from registry.augmentation.generated import deferred_self_augmenter, self_augmenter
from registry.augmentation.grounding import CHECK_VERSION, Passage, is_faithful_rewrite, is_grounded
from registry.augmentation.imported import import_augmenter
from registry.augmentation.prompts import PROMPTS_VERSION

__all__ = [
    "CHECK_VERSION",
    "PROMPTS_VERSION",
    "AugmentationReport",
    "AugmentationSettings",
    "Augmenter",
    "AugmenterSpec",
    "Passage",
    "deferred_self_augmenter",
    "endpoint_augmenter",
    "import_augmenter",
    "is_faithful_rewrite",
    "is_grounded",
    "none_augmenter",
    "parse_augmenter",
    "self_augmenter",
]
