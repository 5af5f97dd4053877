"""The master: takes jobs from clients, has workers run them, takes the results back. It opens no payload."""
