"""The content-addressed store: what happens between a folder of files and a storage."""
