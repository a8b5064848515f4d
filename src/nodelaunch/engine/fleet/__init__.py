"""Records that launchers publish for each other in the store: their presence, the labels of their pools, and pauses."""
