-- Records are packed in SQLite (perun_hpc/accounting/packed.py); up to which row older ones have been.
CREATE TABLE packing (
    cluster TEXT PRIMARY KEY,
    packed_until BIGINT NOT NULL
);
