"""The parts that every protocol revision shares: executions, waits, answers, reports."""
