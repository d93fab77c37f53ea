"""Files, processes, signals, devices: nothing here knows of datasets."""
