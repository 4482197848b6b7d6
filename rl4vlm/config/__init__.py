"""Settings: one documented field each, how config files are merged, and the runs that a config asks for."""
