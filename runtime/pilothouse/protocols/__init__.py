"""Pure translations between a wire and `pilothouse.messages`. No I/O, no engine, no framework."""
