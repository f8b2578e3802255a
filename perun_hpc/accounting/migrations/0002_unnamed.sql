-- Records that Slurm's accounting has not completed yet: looked for in every sweep, few among millions.
CREATE INDEX job_unnamed ON job (cluster, end_s, id) WHERE state = '';
