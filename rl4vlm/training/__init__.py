"""What every training shares: processes, optimiser, exact resume, metric trackers."""
