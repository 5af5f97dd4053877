"""What the master tells those who look at the cluster."""
