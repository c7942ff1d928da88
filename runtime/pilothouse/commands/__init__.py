"""One file a command: `add` declares its flags without importing anything heavy, `run` imports its room and returns the exit code."""
