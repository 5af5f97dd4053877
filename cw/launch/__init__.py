"""Parts that all launchers of clusters share: handles, processes known for certain, the wait until one is ready."""
