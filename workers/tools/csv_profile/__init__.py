"""The parts of `profile_csv`: the reading of rows, the profiles of columns, and sketches of bounded size."""
