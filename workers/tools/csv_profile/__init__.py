"""What `profile_csv` is made of: reading rows, looking at columns, and sketches of bounded size."""
