"""Reports how requests and launchers stand, to whoever asks, in this process or through the store."""
