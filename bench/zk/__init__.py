"""A ZooKeeper server to measure on, and a pipelined client that costs little."""
