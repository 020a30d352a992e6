"""The parts of `render_fractal`: the iteration, and its colours."""
