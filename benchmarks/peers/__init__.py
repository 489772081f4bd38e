"""The packages that the benchmarks compare with, each as it is used by default."""
