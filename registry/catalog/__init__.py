"""The catalog: all SQL of the registry.

``engine.open_catalog`` gives a ``Catalog``; the functions of the modules beside take a session of it first
(``with catalog.write() as session``) and exchange frozen records, never rows. ``quick`` alone does without SQLAlchemy.
"""
