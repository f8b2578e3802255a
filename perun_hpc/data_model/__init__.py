"""Values that every part shares: units, sensors, samples, jobs, records."""
