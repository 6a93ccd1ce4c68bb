"""Full-text search over the documents of a version. No SQL, no torch."""

from registry.index.analysis import ANALYSER_VERSION
from registry.index.version_index import VersionIndex

__all__ = ["ANALYSER_VERSION", "VersionIndex"]
