"""Runs that outlive their script: folders, calls on disk, owners, and the way from one owner to the next."""
