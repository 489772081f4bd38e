"""Recorded answers of models, as the benchmarks of several techniques read them."""
