"""The secret of a deployment, and what is made with it: keys, and sealed texts."""
