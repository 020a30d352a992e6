"""What every protocol revision shares: executions, waits, answers, reports."""
