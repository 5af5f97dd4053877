"""Runs that outlive their script."""
