"""Modules and files of the client that travel with a session, for machines that do not see its directories."""
