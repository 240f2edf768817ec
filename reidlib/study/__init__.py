"""The study: its steps, where their results lie, and how they run."""
