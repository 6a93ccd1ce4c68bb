"""The manifest of a repository, written and strictly read: one root, shards of members, files of records.

``docs/hub-format.md`` describes it for others. Whatever is malformed is an IntegrityError.
"""
