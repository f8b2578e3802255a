-- Energy of nodes on which no sensor measured: estimated, and summed by itself as what is modelled or simulated is.
ALTER TABLE usage_day ADD COLUMN estimated_uj BIGINT NOT NULL DEFAULT 0;
