"""The main job: play recorded traffic, plain and optimised, and show the difference."""

__all__: list[str] = []
