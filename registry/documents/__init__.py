"""Documents from sources: files, folders, patterns, standard input and URLs, cut into passages."""

from registry.documents.options import ReadOptions
from registry.documents.passages import cut_passages
from registry.documents.reading import read_documents
from registry.documents.source_file import SourceFile
from registry.documents.sources import expand_sources

__all__ = ["ReadOptions", "SourceFile", "cut_passages", "expand_sources", "read_documents"]
