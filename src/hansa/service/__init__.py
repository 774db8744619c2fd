"""A member as a service: one supervising process that takes approved plans as they come, and a process of its own for each run."""
