"""The core of the wire contract as checks against a running server, wherever it runs: `pilothouse smoke`, the chart's `helm test`, tests/contract."""
