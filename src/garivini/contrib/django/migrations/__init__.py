"""One migration for each revision of the schema, which runs that revision."""
