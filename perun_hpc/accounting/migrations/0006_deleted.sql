-- What deleted records leave, without a person and without a program: enough to know their evidence again, so that it is
-- counted once when a backup or a node brings it back. The sums of these stand in usage_day under the user `removed`.
CREATE TABLE deleted (
    id INTEGER PRIMARY KEY,
    cluster TEXT NOT NULL,
    job_id BIGINT NOT NULL,
    submit_s BIGINT NOT NULL,
    restart_count INTEGER NOT NULL,
    sluid TEXT NOT NULL,
    start_s BIGINT NOT NULL,
    end_s BIGINT NOT NULL,
    body TEXT NOT NULL
);
CREATE INDEX deleted_job ON deleted (job_id, cluster);
