"""What authors declare: tools, resources, prompts, completions, and the schemas that go with them."""
