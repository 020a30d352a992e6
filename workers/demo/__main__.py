"""`python -m workers.demo`: run the demo."""

from .scenario import demo

demo(prog_name="make demo")
