"""Repositories on the Hub as the catalog knows them: what lies there, what is published, what is received."""
