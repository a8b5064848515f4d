"""What the sweeper is made of: one file for each thing it mends, the queue they share, and deadlines."""
