-- CO2 that accountants keep apart: market-based, upstream (scope 3, category 3), life-cycle (scopes 2 and 3 in one).
ALTER TABLE usage_day ADD COLUMN co2_market_mg BIGINT NOT NULL DEFAULT 0;
ALTER TABLE usage_day ADD COLUMN co2_upstream_mg BIGINT NOT NULL DEFAULT 0;
ALTER TABLE usage_day ADD COLUMN co2_life_cycle_mg BIGINT NOT NULL DEFAULT 0;
