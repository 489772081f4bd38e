"""Other semantic caches, each as it is used by default."""
