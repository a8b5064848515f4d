"""What launchers tell each other through the store: who is there, which pools offer which labels, what is paused."""
