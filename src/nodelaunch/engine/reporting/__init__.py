"""Reports the standing of requests and launchers, in this process or through the store."""
