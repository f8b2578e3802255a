-- Slurm's own name of a run (25.11 on) tells runs apart where submit time and restart count do not.
UPDATE job SET sluid = '' WHERE sluid IS NULL;
DROP INDEX job_key;
CREATE UNIQUE INDEX job_key ON job (job_id, cluster, submit_s, restart_count, sluid);
