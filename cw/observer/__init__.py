"""What an observer of a master sees and orders: the snapshot of a cluster, how to get it, and its forms."""
