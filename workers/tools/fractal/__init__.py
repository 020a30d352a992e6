"""What `render_fractal` is made of: the iteration, and its colours."""
