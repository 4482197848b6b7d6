"""What every training shares: processes, optimizer, exact resume, metric trackers."""
