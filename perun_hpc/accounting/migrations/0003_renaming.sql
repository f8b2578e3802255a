-- Up to which end finished runs' directories have given their bare names away.
CREATE TABLE renaming (
    cluster TEXT PRIMARY KEY,
    renamed_until_s BIGINT NOT NULL
);
