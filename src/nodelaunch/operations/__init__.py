"""What an operator sees and does, for the command line and HTTP: lists, nodes by hand, pauses, the plan of a reload."""
