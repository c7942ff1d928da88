"""What `pilothouse doctor` finds: pure judgements over facts that somebody else gathered."""
