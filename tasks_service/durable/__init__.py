"""What a running tool holds, and what replays: context, journal, steps, questions, suspension."""
