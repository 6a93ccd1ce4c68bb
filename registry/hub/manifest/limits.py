"""What a manifest may at most hold. All is checked before it is allocated, fetched or believed."""

from __future__ import annotations

ROOT_LIMIT_BYTES = 32 * 1024 * 1024
"""Larger root manifests are refused; one of 1,000 versions and 4,096 shards has 0.7 MB."""

SHARD_ROWS = 2048
"""So many rows a shard are aimed at."""

MOST_BITS = 12
SHARD_LIMIT_BYTES = 128 * 1024 * 1024
SHARD_LIMIT_ROWS = 1 << 20

RECORDS_FILE_BYTES = 32 * 1024 * 1024
"""So much text goes into one file of records."""

RECORDS_LIMIT_BYTES = 128 * 1024 * 1024
"""Larger files of records are refused, and those that hold more than twice that when they are unpacked."""

RECORDS_LIMIT_ROWS = 1 << 20

PACK_LIMIT_BYTES = 200_000_000_000
"""No file on the Hub may be larger."""

MOST_VERSIONS = 1_000_000
MOST_RECIPES = 10_000
MOST_QUESTIONS = 1_000_000
NAME_LENGTH = 256
"""Of names of devices, generators and the like, in Unicode code points; longer ones are refused."""

TEXT_LENGTH = 4096
"""Of messages, URIs and record ids."""
