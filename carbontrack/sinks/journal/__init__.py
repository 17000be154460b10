"""The journal of open runs and undelivered records, and recovery from it after a crash."""
